"""The record: everything that was judged and measured after cleaning, in one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.detection.cells import CLEAN, find_cells
from benchmarks.detection.judge import find_judged
from benchmarks.detection.retrain import find_outcome
from bye_audit.errors import StageNotRunError

RESULTS = "detection.parquet"

_TEXT = (
    *("data", "attack", "model", "variant", "detector", "settings"),
    *("decision", "explanation", "kept_digest", "training"),
)
_WHOLE = (
    *("seed", "run", "num_confirmed", "num_averaged_layers"),
    *("num_flagged", "num_poisoned", "false_removals", "num_samples"),
)
_REAL = (
    *("rate", "asr", "cp", "asr_after", "cp_after", "precision", "recall", "f1"),
    *("seconds", "seconds_asking"),
)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        *((name, pa.int64()) for name in _WHOLE),
        *((name, pa.float64()) for name in _REAL),
        ("is_alarm", pa.bool_()),
    ]
)
"""One row a cell and variant, and one a clean cell, half (``run``) and variant."""


def write_record(root: Path) -> int:
    """Gather what is known of all cells under ``root``; gives the number of cells left out.

    A cell is left out as long as the present detectors have not judged it.
    """
    rows: list[dict[str, Any]] = []
    num_left_out = 0
    for made in find_cells(root):
        judged = find_judged(made)
        if judged is None:
            num_left_out += 1
            continue
        for row in judged:
            is_attacked = made.cell.attack != CLEAN
            rows.append({**row, **(find_outcome(made, row, root) if is_attacked else {})})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), root / RESULTS)
    return num_left_out


def read_record(root: Path) -> list[dict[str, Any]]:
    """Read the record under ``root``.

    Raises
    ------
    StageNotRunError
        If there is none.
    """
    path = root / RESULTS
    if not path.is_file():
        raise StageNotRunError(f"There is no record {path}.", hint="Run the step `judge` first.")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
