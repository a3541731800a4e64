"""Cells in processes of their own, so that each has one core and gives its memory back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def run_each(out: Path, calls: Sequence[tuple[str, Sequence[str]]], num_jobs: int) -> int:
    """Run steps of this command side by side.

    Parameters
    ----------
    out
        Folder of the record.
    calls
        For each process, what it is called on the terminal and its arguments after ``--out``.
    num_jobs
        Processes at once.

    Returns
    -------
    int
        How many failed; what they were at is taken up by the same command again.
    """
    # Before the module is imported, or torch has chosen its number of threads already.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [sys.executable, "-m", "benchmarks.detection", "--out", str(out)]

    def run(call: tuple[str, Sequence[str]]) -> bool:
        name, arguments = call
        code = subprocess.run([*started, *arguments], env=environment, check=False).returncode
        print(name, "done" if code == 0 else f"failed ({code})", flush=True)
        return code != 0

    with ThreadPoolExecutor(num_jobs) as pool:
        return sum(pool.map(run, calls))
