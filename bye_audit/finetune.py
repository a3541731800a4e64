"""Stage 2: train the provisional adapter on the suspect samples themselves.

Reads ``messages`` and ``images``; writes ``adapters/<run id>/`` and one row of ``runs``; no column.
Resumes from its last checkpoint, and does nothing where the same model was already trained on the
same samples with the same settings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit.config import FinetuneConfig
from bye_audit.core.loss_curve import find_loss_rise
from bye_audit.errors import EmptySourceError
from bye_audit.processes import (
    connect_processes,
    count_processes,
    decide_on_first,
    device_of_process,
    is_first_process,
    wait_for_all,
)
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import SAMPLES
from bye_audit.store.border import storage_errors
from bye_audit.store.tables import AuditTables, Run, new_run_id

if TYPE_CHECKING:
    from bye_audit.model.lora import LoraOutcome, LossPoint
    from bye_audit.model.prompts import Conversation

STAGE = "finetune"
ADAPTERS_DIR = "adapters"
_FINGERPRINT_FILE = "fingerprint.json"
_READ = ["messages", "images", "unscorable"]
# They change how a run gets there, not where it arrives.
NOT_IN_FINGERPRINT = ("checkpoint_seconds", "gradient_checkpointing", "micro_batch_size")


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The provisional adapter and the run that made it."""

    run: Run
    adapter_dir: Path
    is_new: bool
    """False where an earlier run had already done all of it."""

    @property
    def num_samples(self) -> int:
        """Samples there were."""
        return int(self.run.record["num_samples"])

    @property
    def num_left_out(self) -> int:
        """Samples without answer, too long, or that could not be encoded."""
        return int(self.run.record["num_left_out"])

    @property
    def final_loss(self) -> float | None:
        """Last point of the loss curve; None for a run of no steps."""
        curve = self.run.record["loss_curve"]
        return float(curve[-1]["loss"]) if curve else None

    @property
    def warning(self) -> str | None:
        """A sentence if the loss says that the training failed."""
        found = self.run.record.get("loss_warning")
        return None if found is None else str(found)


def finetune_provisional(
    tables: AuditTables,
    model: str,
    config: FinetuneConfig,
    *,
    restart: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> FinetuneResult:
    """Train the provisional adapter on all samples of the audit.

    Parameters
    ----------
    tables
        The audit.
    model
        Folder or hub id of the base model.
    config
        Hyper-parameters.
    restart
        Begin again: drop the checkpoints of an unfinished run, and repeat a finished one.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    FinetuneResult
        Also of an earlier run with the same model, samples and settings.

    Raises
    ------
    EmptySourceError
        If no sample has an image.
    UnsupportedModelError
        If the model cannot be opened or scored later.
    FinetuneDivergedError
        If the loss is no longer finite.
    MissingDependencyError
        If quantisation is asked for and bitsandbytes is not installed.
    InterruptedStageError
        On Ctrl-C; the next call goes on from the checkpoint.
    """
    require_images(tables)
    from bye_audit.model.loading import load_model
    from bye_audit.model.lora import split_batch, train_lora

    split_batch(config, count_processes())
    connect_processes()
    fingerprint, run_id = decide_on_first(
        lambda: _choose_run(tables, model, config, restart=restart)
    )
    adapter_dir = tables.directory(ADAPTERS_DIR) / run_id
    finished = _find_run(tables, run_id)
    if finished is not None:
        return FinetuneResult(finished, adapter_dir, False)
    vlm = load_model(
        model,
        trust_remote_code=trust_remote_code,
        device=device_of_process(),
        quantization=config.quantization,
    )
    shown = progress if is_first_process() else SILENT
    outcome = train_lora(vlm, StoredConversations(tables), config, adapter_dir, shown)
    record = {
        "model": portable_name(model),
        "base_model": vlm.name,
        "base_revision": vlm.revision,
        "device": vlm.device.type,
        "num_processes": count_processes(),
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "fingerprint": fingerprint,
        "base_digest": vlm.digest,
        "content_digest": fingerprint["content_digest"],
        "table_version": tables.version(),
        "hyper_parameters": asdict(config),
        "versions": _versions(),
        **_outcome_record(outcome),
    }
    if is_first_process():
        tables.record_run(STAGE, record, run_id)
    wait_for_all()
    run = _find_run(tables, run_id)
    assert run is not None, "the first process has just written it"
    return FinetuneResult(run, adapter_dir, True)


def _choose_run(
    tables: AuditTables, model: str, config: FinetuneConfig, *, restart: bool
) -> tuple[dict[str, Any], str]:
    """Name the run that has done this, began it, or is to do it now."""
    from bye_audit.model.files import model_digest

    fingerprint = {
        "base_digest": model_digest(model),
        "content_digest": tables.content_digest(),
        "settings": {k: v for k, v in asdict(config).items() if k not in NOT_IN_FINGERPRINT},
    }
    finished = None if restart else _find_finished(tables, fingerprint)
    if finished is not None:
        return fingerprint, finished.run_id
    unfinished = _find_unfinished(tables, fingerprint)
    if restart and unfinished is not None:
        with storage_errors(f"remove the unfinished adapter {unfinished.name}"):
            shutil.rmtree(unfinished)
        unfinished = None
    return fingerprint, (unfinished or _make_adapter_dir(tables, fingerprint)).name


def _find_run(tables: AuditTables, run_id: str) -> Run | None:
    return next((run for run in tables.runs(STAGE) if run.run_id == run_id), None)


class StoredConversations:
    """The audit's conversations by number, read from the tables when they are needed."""

    def __init__(self, tables: AuditTables) -> None:
        self._tables = tables
        # One fixed version: a concurrent ingest must not move the numbers.
        self._dataset = tables.dataset(SAMPLES)
        self._num_samples = tables.num_samples()

    def __len__(self) -> int:
        return self._num_samples

    def text_lengths(self) -> list[int]:
        """Count the characters of each conversation."""
        found: list[int] = []
        with storage_errors("read samples"):
            for batch in self._dataset.to_batches(columns=["messages"], batch_size=4096):
                rows = batch["messages"].to_pylist()
                found += [sum(len(turn["content"] or "") for turn in turns) for turns in rows]
        return found

    def __getitem__(self, index: int, /) -> Conversation:
        from bye_audit.model.prompts import ConversationError

        found = self.__getitems__([index])[0]
        if found is None:
            raise ConversationError("an image cannot be decoded, or it has a video")
        return found

    def __getitems__(self, indices: Sequence[int]) -> list[Conversation | None]:
        """Read many at once; None where an image cannot be decoded, or there is a video."""
        from bye_audit.model.prompts import ConversationError, decode_conversation

        with storage_errors("read samples"):
            rows = self._dataset.take(list(indices), columns=_READ).to_pylist()
        data = self._tables.load_images([digest for row in rows for digest in row["images"]])
        found: list[Conversation | None] = []
        for row in rows:
            try:
                found.append(None if row["unscorable"] else decode_conversation(row, data))
            except ConversationError:
                found.append(None)
        return found


def require_images(tables: AuditTables) -> None:
    """Refuse an audit that has nothing to fine-tune on."""
    if tables.num_samples() == 0:
        raise EmptySourceError(
            f"{tables.uri} has no samples to fine-tune on.",
            hint=f"Run `bye-audit ingest {tables.uri} SOURCE...` first.",
        )
    if tables.num_samples("array_length(images) > 0") == 0:
        raise EmptySourceError(
            f"None of the {tables.num_samples()} samples in {tables.uri} has an image.",
            hint="The audit looks at attention to images: ingest a source that has some.",
        )


def _find_finished(tables: AuditTables, fingerprint: dict[str, Any]) -> Run | None:
    from bye_audit.model.files import ADAPTER_WEIGHTS, file_digest

    for run in reversed(tables.runs(STAGE)):
        weights = tables.directory(ADAPTERS_DIR) / run.run_id / ADAPTER_WEIGHTS
        if (
            run.record.get("fingerprint") == fingerprint
            and weights.is_file()
            and file_digest(weights) == run.record["adapter_digest"]
        ):
            return run
    return None


def _find_unfinished(tables: AuditTables, fingerprint: dict[str, Any]) -> Path | None:
    finished = {run.run_id for run in tables.runs(STAGE)}
    for path in sorted(tables.directory(ADAPTERS_DIR).glob(f"{STAGE}-*/{_FINGERPRINT_FILE}")):
        if path.parent.name in finished:
            continue
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Killed while it was written: that run had not begun.
            continue
        if stored == json.loads(json.dumps(fingerprint)):
            return path.parent
    return None


def _make_adapter_dir(tables: AuditTables, fingerprint: dict[str, Any]) -> Path:
    folder = tables.directory(ADAPTERS_DIR) / new_run_id(STAGE)
    with storage_errors(f"make the adapter folder {folder.name}"):
        folder.mkdir()
        text = json.dumps(fingerprint, indent=2)
        (folder / _FINGERPRINT_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def _outcome_record(outcome: LoraOutcome) -> dict[str, Any]:
    return {
        "adapter_digest": outcome.adapter_digest,
        "num_samples": outcome.num_used + outcome.num_left_out,
        "num_used": outcome.num_used,
        "num_left_out": outcome.num_left_out,
        "num_steps": outcome.num_steps,
        "num_trained_weights": outcome.num_trained_weights,
        "projector": outcome.projector,
        "resumed_from_step": outcome.resumed_from_step,
        "seconds": round(outcome.seconds, 3),
        "loss_curve": [asdict(point) for point in outcome.loss_curve],
        "loss_warning": _warn_of_rise(outcome.loss_curve),
    }


def _warn_of_rise(curve: Sequence[LossPoint]) -> str | None:
    rise = find_loss_rise([point.loss for point in curve])
    if rise is None:
        return None
    what = (
        f"The training loss rose from {rise.start:.3g} to {rise.level:.3g} by step "
        f"{curve[rise.index].step}"
    )
    if rise.is_lasting:
        return (
            f"{what} and stayed there: the provisional model knows the data worse than its base "
            "does, so its scores are no evidence. Lower --learning-rate."
        )
    return f"{what} before it fell again. A lower --learning-rate would train more steadily."


def portable_name(model: str) -> str:
    """``mini`` instead of wherever this installation keeps it."""
    from bye_audit import mini

    folder = Path(model)
    is_embedded = folder.is_dir() and folder.resolve() == Path(mini.model_dir()).resolve()
    return "mini" if is_embedded else model


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft")}
