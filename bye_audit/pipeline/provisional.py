"""Which model and adapter a stage works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bye_audit.errors import ModelError, StageNotRunError

EMBEDDED_MODEL = "mini"


@dataclass(frozen=True)
class Provisional:
    """A base model and the adapter trained on suspect data, None for a model tuned whole."""

    model: str
    adapter_dir: Path | None


def resolve_model(model: str | Path) -> str:
    """Turn ``mini`` into the folder of the embedded model and leave every other name alone.

    Raises
    ------
    ModelError
        If the embedded model is asked for and its weights are not installed.
    """
    if str(model) != EMBEDDED_MODEL:
        return str(model)
    from bye_audit import mini

    folder = mini.model_dir()
    if not (folder / "config.json").is_file():
        raise ModelError(
            "The embedded model is not part of this installation.",
            hint="install bye-audit again from its wheel, or name another model.",
        )
    return str(folder)


def find_provisional(
    uri: str, model: str | Path | None = None, adapter_dir: str | Path | None = None
) -> Provisional:
    """Take what is given, and from the last ``finetune`` of the audit at ``uri`` what is not."""
    from bye_audit.store.tables import AuditTables

    adapter = None if adapter_dir is None else Path(adapter_dir)
    if model is not None:
        return Provisional(resolve_model(model), adapter)
    tables = AuditTables.open(uri)
    run = tables.latest_run("finetune")
    if run is None:
        raise StageNotRunError(
            f"{uri} has no provisional model yet.",
            hint=f"Run `bye-audit finetune {uri} --model MODEL`.",
        )
    return Provisional(
        resolve_model(run.record["model"]), adapter or tables.directory("adapters") / run.run_id
    )
