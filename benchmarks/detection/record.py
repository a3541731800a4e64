"""The record: everything that was judged and measured after cleaning, in one Parquet file.

Cells are large and stay on the machine that made them; the record is small and is kept, so that
cells of several machines come together in it.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.detection.cells import CLEAN, Cell, find_cells
from benchmarks.detection.judge import find_judged, name_judging_code
from benchmarks.detection.retrain import find_outcome
from bye_audit.errors import StageNotRunError

RESULTS = "detection.parquet"

_TEXT = (
    *("data", "attack", "model", "variant", "detector", "settings"),
    *("decision", "explanation", "kept_digest", "training", "judged_with"),
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
"""One row a cell and variant, and one a clean cell, half (``run``) and variant.

``judged_with`` names the code that judged the cell, comments and docstrings aside.
"""

_CELL = tuple(field.name for field in fields(Cell))


def write_record(root: Path, path: Path | None = None) -> int:
    """Put what is known of all cells under ``root`` into a record.

    Parameters
    ----------
    root
        Folder of the cells.
    path
        The record. Rows of cells that are not under ``root``, or were not judged with the present
        code there, stay as they are. None: a record of its own under ``root``.

    Returns
    -------
    int
        How many cells under ``root`` the present detectors have not judged.
    """
    path = path or root / RESULTS
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist() if path.is_file() else []:
        rows.setdefault(tuple(row[name] for name in _CELL), []).append(row)
    num_left_out = 0
    for made in find_cells(root):
        judged = find_judged(made)
        if judged is None:
            num_left_out += 1
            continue
        is_attacked = made.cell.attack != CLEAN
        rows[tuple(made.key()[name] for name in _CELL)] = [
            {
                **row,
                "judged_with": name_judging_code(),
                **(find_outcome(made, row, root) if is_attacked else {}),
            }
            for row in judged
        ]
    gathered = [row for cell in sorted(rows) for row in rows[cell]]
    pq.write_table(pa.Table.from_pylist(gathered, schema=SCHEMA), path, compression="zstd")
    return num_left_out


def read_record(path: Path) -> list[dict[str, Any]]:
    """Read a record.

    Raises
    ------
    StageNotRunError
        If there is none.
    """
    if not path.is_file():
        raise StageNotRunError(f"There is no record {path}.", hint="Run the step `judge` first.")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
