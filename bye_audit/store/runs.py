"""What a stage leaves behind when it has finished: a row that says what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Run:
    """One finished stage."""

    run_id: str
    stage: str
    finished_at: str
    record: dict[str, Any]


def new_run_id(stage: str) -> str:
    """Make a run id that sorts by time and is never used twice."""
    return f"{stage}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:4]}"


def finished_run(stage: str, record: Mapping[str, Any], run_id: str | None) -> Run:
    """Make the run of a stage that finishes now; the record is what JSON makes of it.

    Raises
    ------
    ValueError
        If the record holds a NaN or an infinity, which no stage may store.
    """
    text = json.dumps(dict(record), allow_nan=False, ensure_ascii=False)
    finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Run(run_id or new_run_id(stage), stage, finished_at, json.loads(text))


def row_of_run(run: Run) -> dict[str, str]:
    """Give the row of the runs table."""
    record = json.dumps(run.record, allow_nan=False, ensure_ascii=False)
    return {
        "run_id": run.run_id,
        "stage": run.stage,
        "finished_at": run.finished_at,
        "record": record,
    }


def run_of_row(row: Mapping[str, str]) -> Run:
    """Read a row of the runs table."""
    return Run(row["run_id"], row["stage"], row["finished_at"], json.loads(row["record"]))
