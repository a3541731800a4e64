"""What cells of another model than the embedded one will take, said before anything is begun."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.detection.cells import Cell, find_examples
from bye_audit.cli.plan import format_bytes
from bye_audit.cli.text import count, format_seconds
from bye_audit.errors import ModelError
from bye_audit.mini.dataset import write_llava
from bye_audit.pipeline import Audit
from bye_audit.planning import Plan
from bye_audit.progress import SILENT, Progress

# Nobody trains more than this on a CPU.
_MAX_WEIGHTS_WITHOUT_GPU = 1_000_000_000
_NUM_LOOKED_AT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a cell takes, and why it cannot be made here; empty where it can."""

    sentence: str
    obstacles: tuple[str, ...]


def measure_needs(
    cells: Sequence[Cell], out: Path, data_dir: Path | None, progress: Progress = SILENT
) -> Needs:
    """Plan for a few of the first cell's samples and scale that up to all.

    Raises
    ------
    ByeAuditError
        If the data or the model is not there.
    """
    cell = cells[0]
    examples = find_examples(cell.data, data_dir)
    config = cell.finetune_config()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        folder = Path(scratch)
        source = write_llava(islice(examples.train(cell.seed), _NUM_LOOKED_AT), folder / "data")
        data_bytes = sum(path.stat().st_size for path in source.parent.rglob("*"))
        audit = Audit.open(folder / "audit", progress=progress)
        audit.ingest(source).plan(cell.model, config, device=_device_for(cell))
        plan = audit.planned
        assert plan is not None
    share = examples.num_train / plan.num_samples
    # Planted files and tables both hold the images until a cell is made; then the tables alone.
    disk = plan.finetune_disk + (2 * data_bytes + plan.score_disk) * share
    kept = (data_bytes + plan.score_disk) * share * len(cells)
    return Needs(
        sentence=_sentence(cells, plan, examples.num_train, disk, kept),
        obstacles=tuple(_obstacles(plan, disk + kept)),
    )


def _device_for(cell: Cell) -> str | None:
    """Plan for a GPU, here or not, where a CPU would never finish."""
    from bye_audit.model.memory import sketch_model

    shape = sketch_model(cell.model, cell.finetune_config())
    return "cuda" if shape.num_base_weights > _MAX_WEIGHTS_WITHOUT_GPU else None


def _sentence(cells: Sequence[Cell], plan: Plan, num_train: int, disk: float, kept: float) -> str:
    memory = (plan.at_longest_seen or plan.at_max_length).finetune.total
    positions = (plan.at_longest_seen or plan.at_max_length).length
    if plan.finetune_seconds is None or plan.score_seconds is None:
        hours = f"times that could not be measured ({plan.not_measured})"
    else:
        seconds = (plan.finetune_seconds + plan.score_seconds) * num_train / plan.num_samples
        hours = (
            f"{format_seconds(seconds)} of fine-tuning and scoring each, measured on "
            f"{count(plan.num_samples, 'sample')}"
        )
    return (
        f"Making {count(len(cells), 'cell')} of {count(num_train, 'sample')} of {cells[0].data} "
        f"with {cells[0].model} ({plan.num_base_weights / 1e9:.3g} billion weights) takes "
        f"{format_bytes(memory)} of {plan.device} memory (computed, {positions:,} positions, "
        f"micro-batches of {plan.micro_batch_size}), {format_bytes(disk)} of disk while one is "
        f"made and {format_bytes(kept)} for all in the end, and {hours}."
    )


def _obstacles(plan: Plan, disk: float) -> list[str]:
    found = list(plan.warnings)
    if plan.device == "cuda" and plan.device_memory is None:
        found.append("There is no GPU here.")
    if disk > plan.free_disk:
        found.append(f"Only {format_bytes(plan.free_disk)} of disk are free.")
    return found


def require(needs: Needs) -> None:
    """Stop where something is missing.

    Raises
    ------
    ModelError
        Naming everything that is.
    """
    if needs.obstacles:
        raise ModelError(
            " ".join(needs.obstacles),
            hint="Run the same command where there is; what was made is taken up.",
        )
