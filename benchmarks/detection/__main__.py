"""Make the cells of the record and judge them: ``python -m benchmarks.detection make ...``."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.detection.cells import DATASETS, Cell, make_cell
from benchmarks.detection.record import write_record, write_retrained
from benchmarks.detection.tables import as_markdown
from bye_audit.cli.progress import make_progress
from bye_audit.poison.attacks import ATTACKS


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmark-detection"))
    steps = parser.add_subparsers(dest="step", required=True)
    make = steps.add_parser("make", help="train and score provisional models")
    make.add_argument("--data", choices=DATASETS, nargs="+", default=["scenes"])
    make.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    make.add_argument("--rates", type=float, nargs="+", default=[0.1])
    make.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    make.add_argument("--jobs", type=int, default=1, help="cells at once, one core each")
    judge = steps.add_parser("judge", help="put every detector before every finished cell")
    judge.add_argument("--clean-runs", type=int, default=25, help="halves of each clean cell")
    judge.add_argument(
        "--no-purify", action="store_true", help="leave zip out: it costs as much as scoring again"
    )
    again = steps.add_parser("retrain", help="fine-tune again on what a detector kept")
    again.add_argument("--variants", nargs="+", default=["consensus"])
    steps.add_parser("tables", help="print the judged record as Markdown")
    one = steps.add_parser("one", help="train and score one provisional model here")
    one.add_argument("cell")
    options = parser.parse_args()
    if options.step == "one":
        print(make_cell(Cell.parse(options.cell), options.out, make_progress()).record)
        return
    if options.step == "judge":
        write_record(
            options.out,
            num_clean_runs=options.clean_runs,
            purifies=not options.no_purify,
            progress=make_progress(),
        )
        return
    if options.step == "retrain":
        write_retrained(options.out, options.variants, progress=make_progress())
        return
    if options.step == "tables":
        print(as_markdown(options.out))
        return
    grid = itertools.product(options.seeds, options.rates, options.data, options.attacks)
    cells = [Cell(data=d, attack=a, rate=r, seed=s) for s, r, d, a in grid]
    make_all(cells, options.out, options.jobs)


def make_all(cells: list[Cell], out: Path, num_jobs: int) -> None:
    """Make cells in processes of their own, so that each has one core and gives its memory back."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [sys.executable, "-m", "benchmarks.detection", "--out", str(out), "one"]

    def make(cell: Cell) -> None:
        done = subprocess.run([*started, cell.name], env=environment, check=False)
        print(cell.name, "made" if done.returncode == 0 else f"failed ({done.returncode})")

    with ThreadPoolExecutor(num_jobs) as pool:
        list(pool.map(make, cells))


if __name__ == "__main__":
    main()
