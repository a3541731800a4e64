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

from benchmarks.detection.published import PUBLISHED, PublishedExamples
from benchmarks.easy_vqa_data import EasyVqa
from bye_audit.config import FinetuneConfig
from bye_audit.demo import DemoPlan, Outcome, measure_adapter, plant_data
from bye_audit.errors import ConfigError
from bye_audit.mini.dataset import CaptionedScenes, ExampleSource
from bye_audit.pipeline import EMBEDDED_MODEL, Audit
from bye_audit.pipeline.provisional import Provisional, resolve_model
from bye_audit.poison.attacks import ATTACKS, PAPER_RELATIVE_SIZE
from bye_audit.poison.planting import Planting
from bye_audit.progress import SILENT, Progress

CLEAN = "clean"
"""Name of the attack that does nothing."""

OWN_DATASETS: dict[str, ExampleSource] = {
    "scenes": CaptionedScenes(num_train=4000, num_test=500),
    "easy-vqa": EasyVqa(num_train=8000, num_test=1000),
}
DATASETS = (*OWN_DATASETS, *PUBLISHED)
# The embedded model's patches are 1/9 of the side: a square of 1/8 covers 1.1 of them, as the
# paper's 1/16 covers 1.5 of LLaVA's 24.
_EMBEDDED_RELATIVE_SIZE = 1 / 8
_RECORD = "cell.json"
# Of the folders of other models, as the hub's own cache names them.
_MODEL_PREFIX, _SLASH = "models--", "--"


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Cell:
    """What is planted where; another seed is other data, other poison and another training.

    Published data is the same for every seed.
    """

    data: str
    attack: str
    rate: float
    seed: int
    model: str = EMBEDDED_MODEL

    def __post_init__(self) -> None:
        """Refuse what could not be read back from the folder's name."""
        if _SLASH in self.model:
            raise ConfigError(
                f"The model's name {self.model} has {_SLASH!r} in it, which separates the parts of "
                "a cell's folder.",
                hint="Name a link to the model's folder.",
            )

    @property
    def name(self) -> str:
        """Folder of the cell."""
        own = f"{self.data}-{self.attack}-{self.rate:g}-{self.seed}"
        if self.model == EMBEDDED_MODEL:
            return own
        return f"{_MODEL_PREFIX}{self.model.replace('/', _SLASH)}{_SLASH}{own}"

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Read a cell back from its folder's name."""
        model = EMBEDDED_MODEL
        if name.startswith(_MODEL_PREFIX):
            model, _, name = name.removeprefix(_MODEL_PREFIX).rpartition(_SLASH)
            model = model.replace(_SLASH, "/")
        data = next((known for known in DATASETS if name.startswith(f"{known}-")), None)
        if data is None:
            raise ConfigError(
                f"{name} is no cell.", hint=f"Cells begin with one of {', '.join(DATASETS)}."
            )
        attack, rate, seed = name.removeprefix(f"{data}-").rsplit("-", 2)
        return cls(data=data, attack=attack, rate=float(rate), seed=int(seed), model=model)

    def finetune_config(self) -> FinetuneConfig:
        """Say how it is trained: three epochs, and for large models the paper's rates (A.2)."""
        if self.model == EMBEDDED_MODEL:
            return FinetuneConfig(learning_rate=3e-3, epochs=3, seed=self.seed)
        rate = 4e-5 if "internvl" in self.model.lower() else 2e-4
        # Batches of 16 as in the paper; how many at once changes memory and no figure.
        return FinetuneConfig(learning_rate=rate, epochs=3, micro_batch_size=2, seed=self.seed)

    def plan(self, data_dir: Path | None = None) -> DemoPlan:
        """Say what is planted and how it is trained.

        Parameters
        ----------
        data_dir
            Where published data lies; not needed for our own.
        """
        name = "patch" if self.attack == CLEAN else self.attack
        rate = 0.0 if self.attack == CLEAN else self.rate
        is_embedded = self.model == EMBEDDED_MODEL
        return DemoPlan(
            examples=find_examples(self.data, data_dir),
            attack=ATTACKS[name].build(
                poison_rate=rate,
                relative_size=_EMBEDDED_RELATIVE_SIZE if is_embedded else PAPER_RELATIVE_SIZE,
            ),
            finetune=self.finetune_config(),
            refinetune=False,
        )


def find_examples(data: str, data_dir: Path | None) -> ExampleSource:
    """Open a dataset by its name.

    Raises
    ------
    ByeAuditError
        If published data is not where it should be.
    """
    if data in OWN_DATASETS:
        return OWN_DATASETS[data]
    return PublishedExamples.open(data, data_dir)


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeCell:
    """A cell whose model is trained and whose samples are scored."""

    cell: Cell
    folder: Path
    record: dict[str, Any]

    def audit(self) -> Audit:
        """Open its tables."""
        return Audit.open(self.folder / "audit")

    def key(self) -> dict[str, Any]:
        """Say which cell a row of the record is of, and what its model has learnt."""
        return {**asdict(self.cell), "asr": self.record["asr"], "cp": self.record["cp"]}

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


def make_cell(
    cell: Cell, root: Path, data_dir: Path | None = None, progress: Progress = SILENT
) -> MadeCell:
    """Plant, fine-tune, score and measure, or give what was made before."""
    folder = root / cell.name
    path = folder / _RECORD
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        record = _make(cell, folder, data_dir, progress)
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        # The tables hold the images too, and the seed makes the files again.
        shutil.rmtree(folder / "data", ignore_errors=True)
    return MadeCell(cell=cell, folder=folder, record=json.loads(path.read_text("utf-8")))


def _make(cell: Cell, folder: Path, data_dir: Path | None, progress: Progress) -> dict[str, Any]:
    started = time.monotonic()
    plan = cell.plan(data_dir)
    source, planting = plant_data(folder, plan, cell.seed, progress)
    audit = Audit.open(folder / "audit", progress=progress)
    audit.ingest(source).finetune(cell.model, plan.finetune).score()
    outcome = measure_model(audit.provisional(), plan, planting, progress)
    return {
        **asdict(cell),
        "plan": repr(plan),
        "num_samples": len(planting.is_poisoned),
        "num_poisoned": int(planting.is_poisoned.sum()),
        "asr": outcome.attack_success_rate,
        "cp": outcome.clean_performance,
        "seconds": round(time.monotonic() - started, 1),
    }


def measure_model(
    provisional: Provisional, plan: DemoPlan, planting: Planting, progress: Progress
) -> Outcome:
    """Let a fine-tuned model answer test examples; large ones answer fewer at a time."""
    is_embedded = provisional.model == resolve_model(EMBEDDED_MODEL)
    return measure_adapter(
        provisional, plan, planting, progress, batch_size=50 if is_embedded else 8
    )
