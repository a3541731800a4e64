"""What cleaning bought: fine-tune again on what a detector kept, and attack that model.

A training costs minutes. It is done once for each split with the same contents, settings and base
model, under ``retrained/<digest>/``: attacks of one seed and rate that poison the same rows leave
the same clean rows, and so do detectors that agree. Each cell's trigger is then tried on that one
adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.detection.cells import MadeCell, measure_model
from benchmarks.detection.judge import find_judged
from benchmarks.detection.kept import SampleContents, training_digest
from benchmarks.detection.variants import VARIANTS
from bye_audit.config import FinetuneConfig
from bye_audit.demo import plant_data
from bye_audit.errors import StageNotRunError
from bye_audit.pipeline import Audit
from bye_audit.pipeline.provisional import Provisional, resolve_model
from bye_audit.progress import SILENT, Progress

FOLDER = "retrained"
_ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training on what was kept, and whose triggers are tried on its adapter.

    Parameters
    ----------
    digest
        Names it; see :func:`benchmarks.detection.kept.training_digest`.
    kept
        Digest of what was kept.
    variant
        One that kept it, of the first cell.
    cells
        Cells of which some variant kept the same.
    """

    digest: str
    kept: str
    variant: str
    cells: tuple[MadeCell, ...]

    def folder(self, root: Path) -> Path:
        """Give the folder of the adapter and its outcomes."""
        return root / FOLDER / self.digest

    def is_trained(self, root: Path) -> bool:
        """Tell whether there is an adapter already."""
        return (self.folder(root) / _ADAPTER).is_dir()

    def unmeasured(self, root: Path) -> list[MadeCell]:
        """Give the cells whose trigger was not tried yet."""
        return [c for c in self.cells if not _outcome_path(self.folder(root), c).is_file()]


def plan_trainings(cells: Sequence[MadeCell], variants: Sequence[str]) -> list[Training]:
    """Say which trainings give the outcomes of these variants on these cells.

    Raises
    ------
    StageNotRunError
        If cells are not judged, or were judged by other detectors than the present ones.
    """
    wanted: dict[str, tuple[str, str, dict[str, MadeCell]]] = {}
    for made in cells:
        rows = find_judged(made)
        if rows is None:
            raise StageNotRunError(
                f"The cell {made.cell.name} is not judged by the present detectors.",
                hint="Run the step `judge` first.",
            )
        for row in rows:
            if row["variant"] in variants and row["num_flagged"]:
                digest = training_digest(made, row["kept_digest"])
                training = wanted.setdefault(digest, (row["kept_digest"], row["variant"], {}))
                training[2][made.cell.name] = made
    return [
        Training(digest=digest, kept=kept, variant=variant, cells=tuple(chosen.values()))
        for digest, (kept, variant, chosen) in wanted.items()
    ]


def retrain(
    training: Training,
    root: Path,
    *,
    config: FinetuneConfig | None = None,
    data_dir: Path | None = None,
    progress: Progress = SILENT,
) -> None:
    """Train on what was kept unless that was done, and try the triggers that were not tried.

    Parameters
    ----------
    training
        What to do.
    root
        Folder of the record.
    config
        Only for trying this out: other settings than the cell's.
    data_dir
        Where published data lies.
    progress
        Where to report.
    """
    folder = training.folder(root)
    model = training.cells[0].cell.model
    if not training.is_trained(root):
        _train(training, folder, config, progress)
    adapted = Provisional(resolve_model(model), folder / _ADAPTER)
    for made in training.unmeasured(root):
        plan = made.cell.plan(data_dir)
        # The cell's data is planted already: this only tells what was done to which row.
        _, planting = plant_data(made.folder, plan, made.cell.seed, progress)
        after = measure_model(adapted, plan, planting, progress)
        outcome = {"asr_after": after.attack_success_rate, "cp_after": after.clean_performance}
        _outcome_path(folder, made).write_text(json.dumps(outcome), encoding="utf-8")


def _train(
    training: Training, folder: Path, config: FinetuneConfig | None, progress: Progress
) -> None:
    """Go the way a user goes: filter, ingest the split, fine-tune; only the adapter stays."""
    made = training.cells[0]
    detector, settings = VARIANTS[training.variant]
    again = Audit.open(folder / "audit", progress=progress)
    if not (folder / "split" / "cleaned").is_dir():
        # In a copy: other trainings may be about other variants of this cell at the same time.
        shutil.copytree(made.folder / "audit", folder / "judged", dirs_exist_ok=True)
        audit = Audit.open(folder / "judged", progress=progress)
        audit.filter(folder / "split", detector=detector, config=settings)
        shutil.rmtree(folder / "judged")
    again.ingest(folder / "split" / "cleaned")
    kept = SampleContents(again.tables).digest_of_all()
    assert kept == training.kept, f"{made.cell.name}: {kept} was exported, not {training.kept}"
    again.finetune(made.cell.model, config or made.cell.finetune_config())
    adapter_dir = again.provisional().adapter_dir
    assert adapter_dir is not None
    shutil.copytree(adapter_dir, folder / "moving", dirs_exist_ok=True)
    (folder / "moving").rename(folder / _ADAPTER)
    # The images are the cell's own; with an adapter there, nobody asks for them again.
    shutil.rmtree(folder / "audit")
    shutil.rmtree(folder / "split")


def find_outcome(made: MadeCell, row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Give success rate and performance after cleaning, with the training; None if not known."""
    if not row["num_flagged"]:
        # Nothing was removed: the provisional model is the model on what was kept.
        found = {"asr_after": made.record["asr"], "cp_after": made.record["cp"]}
        return {**found, "training": "provisional"}
    digest = training_digest(made, row["kept_digest"])
    path = _outcome_path(root / FOLDER / digest, made)
    if not path.is_file():
        return {"asr_after": None, "cp_after": None, "training": None}
    return {**json.loads(path.read_text("utf-8")), "training": digest}


def _outcome_path(folder: Path, made: MadeCell) -> Path:
    return folder / f"outcome-{made.cell.name}.json"
