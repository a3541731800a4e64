"""What cleaning bought: fine-tune again on what a detector kept, and attack that model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.cells import MadeCell
from benchmarks.detection.judge import VARIANTS
from bye_audit.core.detectors import DETECTORS
from bye_audit.demo import measure_adapter, plant_data
from bye_audit.pipeline import EMBEDDED_MODEL, Audit
from bye_audit.progress import SILENT, Progress
from bye_audit.store.evidence import read_evidence


def retrain(made: MadeCell, variant: str, progress: Progress = SILENT) -> dict[str, Any]:
    """Give attack success rate and clean performance on the split that a variant kept.

    Variants that remove the same samples share one training.
    """
    detector, config = VARIANTS[variant]
    audit = made.audit()
    audit.progress = progress
    detection = DETECTORS[detector].detect(read_evidence(audit.tables).evidence, config)
    removed = np.flatnonzero(detection.is_suspicious_N)
    row = {
        "data": made.cell.data,
        "attack": made.cell.attack,
        "rate": made.cell.rate,
        "seed": made.cell.seed,
        "variant": variant,
        "asr_before": made.record["asr"],
        "cp_before": made.record["cp"],
    }
    if not removed.size:
        # Nothing was removed: the provisional model is the model on what was kept.
        return {**row, "asr_after": made.record["asr"], "cp_after": made.record["cp"]}
    digest = hashlib.sha256(removed.astype(np.int64).tobytes()).hexdigest()[:16]
    folder = made.folder / f"kept-{digest}"
    outcome = folder / "outcome.json"
    if not outcome.is_file():
        audit.filter(folder / "split", detector=detector, config=config)
        found = _train_and_measure(made, folder, progress)
        outcome.write_text(json.dumps(found), encoding="utf-8")
    return {**row, **json.loads(outcome.read_text("utf-8"))}


def _train_and_measure(made: MadeCell, folder: Path, progress: Progress) -> dict[str, Any]:
    plan = made.cell.plan()
    again = Audit.open(folder / "audit", progress=progress)
    again.ingest(folder / "split" / "cleaned").finetune(EMBEDDED_MODEL, plan.finetune)
    # The cell's data is planted already: this only tells what was done to which row.
    _, planting = plant_data(made.folder, plan, made.cell.seed, progress)
    after = measure_adapter(again, plan, planting, progress)
    shutil.rmtree(folder / "split")
    return {"asr_after": after.attack_success_rate, "cp_after": after.clean_performance}
