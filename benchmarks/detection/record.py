"""The record: every cell judged, in one Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.detection.cells import CLEAN, find_cells
from benchmarks.detection.clean import judge_halves
from benchmarks.detection.judge import judge_cell
from benchmarks.detection.retrain import retrain
from bye_audit.progress import SILENT, Progress

RESULTS = "detection.parquet"
CLEAN_RESULTS = "clean.parquet"
RETRAINED = "retrained.parquet"


def write_record(
    root: Path, *, num_clean_runs: int, purifies: bool = True, progress: Progress = SILENT
) -> None:
    """Judge all finished cells under ``root`` and write the results beside them."""
    cells = find_cells(root)
    rows: list[dict[str, Any]] = []
    with progress.task("Judging", len(cells), "cells") as task:
        for made in cells:
            rows += judge_cell(made, progress=progress, purifies=purifies)
            task.advance(note=made.cell.name)
    _write(rows, root / RESULTS)
    clean = [made for made in cells if made.cell.attack == CLEAN]
    runs = [row for made in clean for row in judge_halves(made, num_clean_runs, progress)]
    _write(runs, root / CLEAN_RESULTS)


def write_retrained(root: Path, variants: Sequence[str], progress: Progress = SILENT) -> None:
    """Fine-tune again on what each variant kept of each poisoned cell, and write the outcomes."""
    cells = [made for made in find_cells(root) if made.cell.attack != CLEAN]
    rows = [retrain(made, variant, progress) for made in cells for variant in variants]
    _write(rows, root / RETRAINED)


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what was written; nothing where there is no file."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
    return rows
