"""What ``confirm`` found out about groups of suspects; only its last run's findings are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bye_audit import schema
from bye_audit.store.border import storage_errors
from bye_audit.store.tables import AuditTables, Run, sql_text

CONFIRM = "confirm"


def read_triggers(tables: AuditTables, run_id: str) -> list[dict[str, Any]]:
    """Read what one confirm run found out about groups of suspects, in their order."""
    if not tables.has_table(schema.TRIGGERS):
        return []
    where = f"confirm_run = {sql_text(run_id)}"
    with storage_errors("read the triggers"):
        rows = tables.dataset(schema.TRIGGERS).to_table(filter=where).to_pylist()
    return sorted(rows, key=lambda row: int(row["group"]))


def read_finding(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give everything that was tried on a group; what older rows lack is filled in."""
    return {"search": None, "is_another_answer": False, **json.loads(row["record"])}


def count_contradicted(rows: Iterable[Mapping[str, Any]]) -> int:
    """Count the samples that were questioned because the model contradicts their answers."""
    return sum(int(row["num_suspects"]) for row in rows if read_finding(row)["is_another_answer"])


def claim_interventions(tables: AuditTables, run_id: str) -> None:
    """Make room for the findings of a run; those of another are dropped.

    Whatever of this is cut short is begun again by the next call: the columns come last, and it is
    they who say whose the findings are.
    """
    if _claimed_by(tables) == run_id:
        return
    if tables.has_table(schema.TRIGGERS):
        with storage_errors("drop the triggers of an earlier run"):
            tables.dataset(schema.TRIGGERS).delete("true")
    tables.drop_sample_columns(schema.INTERVENTION_COLUMNS)
    tables.add_sample_columns(schema.intervention_fields(run_id))


def finished_confirm_run(tables: AuditTables) -> Run | None:
    """Give the run whose findings the samples hold; None without one or if it was cut short."""
    run = tables.latest_run(CONFIRM)
    return run if run is not None and run.run_id == _claimed_by(tables) else None


def _claimed_by(tables: AuditTables) -> str | None:
    name = schema.INTERVENTION_COLUMNS[0]
    if name not in tables.sample_columns():
        return None
    return tables.column_metadata(name).get("run")
