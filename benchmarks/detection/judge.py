"""Every detector on every cell, against the truth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.cells import MadeCell
from bye_audit.config import DetectConfig
from bye_audit.core.detection import Detection, Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.metrics import precision_recall_f1
from bye_audit.errors import StageNotRunError
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision
from bye_audit.store.evidence import ScoredSamples, read_evidence

VARIANTS: dict[str, tuple[str, DetectConfig]] = {name: (name, DetectConfig()) for name in DETECTORS}
"""What is judged: a detector and its settings, by the name it has in the record."""


def judge_cell(
    made: MadeCell,
    variants: Mapping[str, tuple[str, DetectConfig]] = VARIANTS,
    progress: Progress = SILENT,
    *,
    purifies: bool = True,
) -> list[dict[str, Any]]:
    """Give one row a variant; the provisional model is asked once, and its answers are kept.

    Without ``purifies``, or where a cell was scored by a version that did not store what `zip`
    compares with, there is no row for `zip`.
    """
    audit = made.audit()
    audit.progress = progress
    audit.confirm()
    if purifies:
        with suppress(StageNotRunError):
            audit.purify()
    scored = read_evidence(audit.tables)
    truth = poisoned_samples(made, scored)
    confirmed = audit.confirmed
    assert confirmed is not None
    rows = []
    for name, (detector, config) in variants.items():
        if not can_judge(detector, scored.evidence):
            continue
        started = time.monotonic()
        detection = DETECTORS[detector].detect(scored.evidence, config)
        rows.append(
            {
                "data": made.cell.data,
                "attack": made.cell.attack,
                "rate": made.cell.rate,
                "seed": made.cell.seed,
                "asr": made.record["asr"],
                "cp": made.record["cp"],
                "variant": name,
                "seconds": round(time.monotonic() - started, 3),
                "num_confirmed": confirmed.num_confirmed,
                **measure(detection, truth),
            }
        )
    return rows


def can_judge(detector: str, evidence: Evidence) -> bool:
    """Whether a detector has its evidence; only that of `zip` is left out on purpose."""
    return DETECTORS[detector].role != "specialist" or evidence.purified is not None


def poisoned_samples(made: MadeCell, scored: ScoredSamples) -> NDArray[np.bool_]:
    """Say which rows of the evidence are poisoned."""
    samples = made.audit().tables.read_samples(["sample_id", "source_row"])
    row_of = dict(zip(*(samples[name].to_pylist() for name in samples.column_names), strict=True))
    rows = np.array([row_of[sample_id] for sample_id in scored.sample_id.to_pylist()])
    return made.truth(rows)


def measure(detection: Detection, truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare an answer with the truth; None where a figure does not exist."""
    metrics = precision_recall_f1(detection.is_suspicious_N, truth)
    num_flagged = int(detection.is_suspicious_N.sum())
    return {
        "decision": str(detection.decision),
        "is_alarm": detection.decision is Decision.POISON_SUSPECTED,
        "num_flagged": num_flagged,
        "num_poisoned": int(truth.sum()),
        "precision": metrics.precision.value if num_flagged else None,
        "recall": metrics.recall.value if truth.any() else None,
        "f1": (metrics.f1 or 0.0) if truth.any() else None,
        "false_removals": int((detection.is_suspicious_N & ~truth).sum()),
        "num_samples": len(truth),
    }
