"""Where the provisional model looks in the samples a report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bye_audit.pipeline.provisional import Provisional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bye_audit.store.tables import AuditTables


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
