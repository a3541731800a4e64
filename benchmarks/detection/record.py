"""The record: every cell judged, in one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.detection.cells import CLEAN, find_cells
from benchmarks.detection.clean import judge_halves
from benchmarks.detection.judge import judge_cell
from bye_audit.progress import SILENT, Progress

RESULTS = "detection.parquet"
CLEAN_RESULTS = "clean.parquet"


def write_record(root: Path, *, num_clean_runs: int, progress: Progress = SILENT) -> None:
    """Judge all finished cells under ``root`` and write the results beside them."""
    cells = find_cells(root)
    rows: list[dict[str, Any]] = []
    with progress.task("Judging", len(cells), "cells") as task:
        for made in cells:
            rows += judge_cell(made, progress=progress)
            task.advance(note=made.cell.name)
    _write(rows, root / RESULTS)
    clean = [made for made in cells if made.cell.attack == CLEAN]
    runs = [row for made in clean for row in judge_halves(made, num_clean_runs, progress)]
    _write(runs, root / CLEAN_RESULTS)


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    if rows:
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
