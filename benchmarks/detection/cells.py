"""One cell of the record: a dataset, poisoned by one attack, and the model fine-tuned on it.

A cell costs minutes and judging it costs seconds, so cells are made once, kept, and judged anew
whenever a detector changes. A cell that was killed goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.easy_vqa_data import EasyVqa
from bye_audit.config import FinetuneConfig
from bye_audit.demo import DemoPlan, measure_adapter, plant_data
from bye_audit.mini.dataset import CaptionedScenes, ExampleSource
from bye_audit.pipeline import EMBEDDED_MODEL, Audit
from bye_audit.poison.attacks import ATTACKS
from bye_audit.progress import SILENT, Progress

CLEAN = "clean"
"""Name of the attack that does nothing."""

DATASETS: dict[str, ExampleSource] = {
    "scenes": CaptionedScenes(num_train=4000, num_test=500),
    "easy-vqa": EasyVqa(num_train=8000, num_test=1000),
}
# The model's patches are 1/9 of the side: a square of 1/8 covers 1.1 of them, as the paper's 1/16
# covers 1.5 of LLaVA's 24.
RELATIVE_SIZE = 1 / 8
_RECORD = "cell.json"


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Cell:
    """What is planted where; another seed is other data, other poison and another training."""

    data: str
    attack: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return f"{self.data}-{self.attack}-{self.rate:g}-{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Read a cell back from its folder's name."""
        data = next(known for known in DATASETS if name.startswith(f"{known}-"))
        attack, rate, seed = name.removeprefix(f"{data}-").rsplit("-", 2)
        return cls(data=data, attack=attack, rate=float(rate), seed=int(seed))

    def plan(self) -> DemoPlan:
        """Say what is planted and how it is trained: three epochs, as in the paper."""
        name = "patch" if self.attack == CLEAN else self.attack
        rate = 0.0 if self.attack == CLEAN else self.rate
        return DemoPlan(
            examples=DATASETS[self.data],
            attack=ATTACKS[name].build(poison_rate=rate, relative_size=RELATIVE_SIZE),
            finetune=FinetuneConfig(learning_rate=3e-3, epochs=3, seed=self.seed),
            refinetune=False,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeCell:
    """A cell whose model is trained and whose samples are scored."""

    cell: Cell
    folder: Path
    record: dict[str, Any]

    def audit(self) -> Audit:
        """Open its tables."""
        return Audit.open(self.folder / "audit")

    def truth(self, sample_rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which source rows are poisoned."""
        poisoned = json.loads((self.folder / "ground_truth.json").read_text())["poisoned_rows"]
        return np.isin(sample_rows, poisoned)


def find_cells(root: Path) -> list[MadeCell]:
    """Give every finished cell, in order."""
    found = []
    for path in root.glob(f"*/{_RECORD}"):
        record = json.loads(path.read_text("utf-8"))
        found.append(MadeCell(cell=Cell.parse(path.parent.name), folder=path.parent, record=record))
    return sorted(found, key=lambda made: made.cell)


def make_cell(cell: Cell, root: Path, progress: Progress = SILENT) -> MadeCell:
    """Plant, fine-tune, score and measure, or give what was made before."""
    folder = root / cell.name
    path = folder / _RECORD
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_make(cell, folder, progress), indent=1), encoding="utf-8")
        # The tables hold the images too, and the seed makes the files again.
        shutil.rmtree(folder / "data", ignore_errors=True)
    return MadeCell(cell=cell, folder=folder, record=json.loads(path.read_text("utf-8")))


def _make(cell: Cell, folder: Path, progress: Progress) -> dict[str, Any]:
    started = time.monotonic()
    plan = cell.plan()
    source, planting = plant_data(folder, plan, cell.seed, progress)
    audit = Audit.open(folder / "audit", progress=progress)
    audit.ingest(source).finetune(EMBEDDED_MODEL, plan.finetune).score()
    outcome = measure_adapter(audit, plan, planting, progress)
    return {
        **asdict(cell),
        "plan": repr(plan),
        "num_samples": len(planting.is_poisoned),
        "num_poisoned": int(planting.is_poisoned.sum()),
        "asr": outcome.attack_success_rate,
        "cp": outcome.clean_performance,
        "seconds": round(time.monotonic() - started, 1),
    }
