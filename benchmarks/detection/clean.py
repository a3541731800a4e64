"""False alarms: what detectors say of data in which nothing is planted.

Each clean cell is another dataset and another training; each is judged again on random halves of
its samples, so that a hundred runs do not cost a hundred trainings. Halves of one cell are not
independent: the tables say how many cells there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.detection.cells import MadeCell
from benchmarks.detection.variants import (
    ON_CLEAN_HALVES,
    VARIANTS,
    can_judge,
    changed_settings,
)
from benchmarks.held_evidence import hold, take_rows
from bye_audit.core.detectors import DETECTORS
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision
from bye_audit.store.evidence import read_evidence


def judge_halves(
    made: MadeCell, num_runs: int, progress: Progress = SILENT
) -> Iterator[dict[str, Any]]:
    """Judge random halves of a clean cell after ``confirm``; one row a run and variant."""
    evidence = hold(read_evidence(made.audit().tables).evidence)
    num_samples = len(evidence.entropy_NL)
    with progress.task(f"Halves of {made.cell.name}", num_runs, "halves") as task:
        for run in range(num_runs):
            rng = np.random.default_rng([made.cell.seed, run, 0xC1EA])
            rows = np.sort(rng.permutation(num_samples)[: num_samples // 2])
            half = take_rows(evidence, rows)
            for name in ON_CLEAN_HALVES:
                detector, config = VARIANTS[name]
                if not can_judge(detector, half):
                    continue
                detection = DETECTORS[detector].detect(half, config)
                num_flagged = int(detection.is_suspicious_N.sum())
                yield {
                    **made.key(),
                    "variant": name,
                    "detector": detector,
                    "settings": changed_settings(config),
                    "run": run,
                    "decision": str(detection.decision),
                    "is_alarm": detection.decision is Decision.POISON_SUSPECTED,
                    "explanation": detection.explanation,
                    "num_flagged": num_flagged,
                    "num_poisoned": 0,
                    "false_removals": num_flagged,
                    "num_samples": len(rows),
                }
            task.advance()
