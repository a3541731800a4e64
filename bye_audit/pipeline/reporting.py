"""The report of an audit, with pictures of where the provisional model looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bye_audit.errors import StageNotRunError
from bye_audit.pipeline.provisional import Provisional
from bye_audit.progress import SILENT, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bye_audit.store.tables import AuditTables


def write_audit_report(
    tables: AuditTables,
    find_provisional: Callable[[], Provisional],
    out_path: Path,
    *,
    overlays: bool = True,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Choose the samples to show, look where the model looks in them, and write the page.

    Raises
    ------
    StageNotRunError
        If nothing was filtered yet.
    """
    from bye_audit.report.page import write_report
    from bye_audit.report.selection import choose_samples

    run = tables.latest_run("filter")
    if run is None:
        raise StageNotRunError(
            f"{tables.uri} was not filtered yet, so there is nothing to report.",
            hint=f"bye-audit filter {tables.uri} --out DIR",
        )
    choice = choose_samples(tables)
    maps = (
        draw_maps(tables, find_provisional, choice.sample_ids, trust_remote_code=trust_remote_code)
        if overlays
        else {}
    )
    provenance = run.record["provenance"]
    return write_report(tables, provenance, choice, maps, out_path, progress=progress)


def draw_maps(
    tables: AuditTables,
    find_provisional: Callable[[], Provisional],
    sample_ids: Sequence[str],
    *,
    trust_remote_code: bool,
) -> dict[str, NDArray[np.floating]]:
    """Average the sensitive layers' attention over each sample's image, as (rows, columns)."""
    from bye_audit.score import attention_maps

    layers = _layers_to_draw(tables)
    if not sample_ids or not layers:
        return {}
    provisional = find_provisional()
    found = attention_maps(
        tables,
        provisional.model,
        provisional.adapter_dir,
        sample_ids,
        layers,
        trust_remote_code=trust_remote_code,
    )
    # Images cut into tiles form no single grid: those samples are shown without an overlay.
    return {
        sample_id: item.attention_LT.mean(axis=0).reshape(item.grid)
        for sample_id, item in found.items()
        if item.grid is not None
    }


def _layers_to_draw(tables: AuditTables) -> list[int]:
    """Sensitive layers of the last profile, or the one that came nearest."""
    run = tables.latest_run("profile")
    profiles = run.record["layers"] if run else []
    sensitive = [int(profile["layer"]) for profile in profiles if profile["is_sensitive"]]
    if sensitive or not profiles:
        return sensitive
    return [int(max(profiles, key=lambda profile: profile["bsi"])["layer"])]
