"""Fine-tuning the provisional adapter: the Hugging Face Trainer, PEFT, and the paper's settings.

Shape legend: B samples, S positions, K kept positions, V vocabulary.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from bye_audit.config import FinetuneConfig
from bye_audit.errors import (
    ConfigError,
    FinetuneDivergedError,
    InterruptedStageError,
    ModelError,
    StorageError,
)
from bye_audit.model.adapter import adapter_weights, put_fresh_adapter
from bye_audit.model.checkpoints import (
    CHECKPOINT_DIR,
    TrainingReporter,
    last_complete_checkpoint,
    stopping_gracefully,
)
from bye_audit.model.encodings import IGNORED_LABEL
from bye_audit.model.files import ADAPTER_WEIGHTS, file_digest, first_line
from bye_audit.model.loading import VisionLanguageModel, write_adapter_card
from bye_audit.model.ordering import StepSortedSampler
from bye_audit.model.targets import find_projector
from bye_audit.model.training_data import AnswerCollator, ConversationDataset, TrainingSamples
from bye_audit.processes import (
    count_processes,
    is_first_process,
    largest_of_all,
    wait_for_all,
)
from bye_audit.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One point of the loss curve."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class LoraOutcome:
    """What a fine-tuning run left behind."""

    adapter_dir: Path
    adapter_digest: str
    loss_curve: tuple[LossPoint, ...]
    num_steps: int
    num_used: int
    num_left_out: int
    """Conversations without answer, too long, or that could not be encoded."""
    num_trained_weights: int
    projector: str | None
    """Name of the projector module that was trained along."""
    resumed_from_step: int
    seconds: float


def train_lora(
    vlm: VisionLanguageModel,
    conversations: ConversationDataset,
    config: FinetuneConfig,
    output_dir: Path,
    progress: Progress = SILENT,
) -> LoraOutcome:
    """Train a LoRA adapter on the language decoder and leave it active on the model.

    Parameters
    ----------
    vlm
        The base model; an adapter that sits on it is taken off first.
    conversations
        A list will do. Those that cannot be used are left out and counted.
    config
        Hyper-parameters.
    output_dir
        Where the adapter goes; checkpoints below it are taken up again if they are there.
    progress
        Where to report; the note holds the running loss.

    Returns
    -------
    LoraOutcome
        Loss curve and counts. The checkpoints are gone.

    Raises
    ------
    FinetuneDivergedError
        If a loss is no finite number.
    InterruptedStageError
        On Ctrl-C, after a checkpoint was written.
    StorageError
        If a checkpoint or the adapter cannot be written.
    ModelError
        If no conversation can be used, or memory does not suffice.
    """
    started = time.monotonic()
    vlm.drop_adapter()
    samples = TrainingSamples(vlm.encoder, conversations, config.max_length)
    samples.find_fallback()
    projector = find_projector(vlm.model) if config.train_projector else None
    vlm.model = put_fresh_adapter(vlm.model, config, projector)
    trainer = _make_trainer(vlm, samples, config, output_dir)
    resumed_from = last_complete_checkpoint(output_dir)
    try:
        with (
            progress.task("Fine-tuning", count_steps(len(samples), config), "steps") as task,
            stopping_gracefully() as is_stopping,
        ):
            reporter = TrainingReporter(task, config.checkpoint_seconds, is_stopping)
            trainer.add_callback(reporter)
            trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    except KeyboardInterrupt as error:
        raise _interrupted(trainer) from error
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"Fine-tuning needs more memory than {vlm.device} has.",
            hint="Set --micro-batch-size to a smaller divisor of the batch size, or leave "
            "--gradient-checkpointing on; `bye-audit plan` says what fits.",
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise _unwritable("checkpoint", error) from error
    finally:
        vlm.model.eval().requires_grad_(False)
    if reporter.was_stopped:
        raise _interrupted(trainer)
    if is_first_process():
        _save_adapter(vlm, output_dir)
    wait_for_all()
    vlm.adapter_digest = file_digest(output_dir / ADAPTER_WEIGHTS)
    samples.left_out = largest_of_all(samples.left_out, vlm.device)
    step = int(resumed_from.name.rpartition("-")[2]) if resumed_from else 0
    return _outcome(vlm, trainer, samples, projector, output_dir, step, started)


def _outcome(
    vlm: VisionLanguageModel,
    trainer: Trainer,
    samples: TrainingSamples,
    projector: str | None,
    output_dir: Path,
    resumed_from_step: int,
    started: float,
) -> LoraOutcome:
    num_left_out = samples.num_left_out
    return LoraOutcome(
        adapter_dir=output_dir,
        adapter_digest=vlm.adapter_digest or "",
        loss_curve=tuple(
            LossPoint(int(entry["step"]), float(entry["loss"]), float(entry["learning_rate"]))
            for entry in trainer.state.log_history
            if "loss" in entry
        ),
        num_steps=trainer.state.global_step,
        num_used=len(samples) - num_left_out,
        num_left_out=num_left_out,
        num_trained_weights=sum(p.numel() for n, p in adapter_weights(vlm.model)),
        projector=projector,
        resumed_from_step=resumed_from_step,
        seconds=time.monotonic() - started,
    )


def _interrupted(trainer: Trainer) -> InterruptedStageError:
    return InterruptedStageError(
        f"Fine-tuning was stopped at step {trainer.state.global_step}.",
        hint="Run the same command again: it goes on from the last checkpoint.",
    )


class _AnswerLoss:
    """Cross entropy over answer tokens, averaged over all of the optimiser step."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(
        self, outputs: Any, labels_BS: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        self.num_calls += 1
        logits_BKV = outputs.logits[:, :-1]
        targets_BK = labels_BS[:, labels_BS.shape[1] - logits_BKV.shape[1] :].to(logits_BKV.device)
        chosen = targets_BK != IGNORED_LABEL
        logits = logits_BKV[chosen].float()
        total = nn.functional.cross_entropy(logits, targets_BK[chosen], reduction="sum")
        if not torch.isfinite(total):
            raise FinetuneDivergedError(
                f"The training loss became {total.item()} in forward pass {self.num_calls}.",
                hint="Lower --learning-rate.",
            )
        count = chosen.sum() if num_items_in_batch is None else num_items_in_batch
        return total / max(int(count), 1)


class _Trainer(Trainer):
    """The Trainer with micro-batches of like length."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        num_parts = self.args.gradient_accumulation_steps * count_processes()
        if num_parts == 1:
            return super()._get_train_sampler(train_dataset)
        batch_size = self.args.per_device_train_batch_size * num_parts
        return StepSortedSampler(self.train_dataset.text_lengths(), batch_size, self.args.seed)


def _make_trainer(
    vlm: VisionLanguageModel, samples: TrainingSamples, config: FinetuneConfig, output_dir: Path
) -> Trainer:
    micro_batch, num_parts = split_batch(config, count_processes())
    is_gpu = vlm.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(output_dir / CHECKPOINT_DIR),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=num_parts,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_ratio,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=vlm.dtype == torch.bfloat16,
        activation_checkpointing=is_checkpointing(config, vlm.device.type),
        # The other kind needs inputs that ask for gradients, which frozen embeddings do not.
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=not is_gpu,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="no",
        save_total_limit=1,
        logging_steps=max(1, count_steps(len(samples), config) // 200),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        # A process may get a batch without any image, which the projector then has no part in.
        ddp_find_unused_parameters=True,
        # The store's engine has threads of its own and does not survive a fork.
        dataloader_num_workers=0,
        dataloader_pin_memory=is_gpu,
    )
    if arguments.n_gpu > 1:
        # A second GPU is the business of a second process: left alone, the Trainer would copy the
        # model to every GPU it sees and make the batch so many times larger.
        arguments._n_gpu = 1
    trainer = _Trainer(
        model=vlm.model,
        args=arguments,
        data_collator=AnswerCollator(vlm.encoder),
        train_dataset=samples,
        compute_loss_func=_AnswerLoss(),
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    return trainer


def split_batch(config: FinetuneConfig, num_processes: int) -> tuple[int, int]:
    """Cut the batch into samples a forward pass and forward passes a process.

    Raises
    ------
    ConfigError
        If it cannot be cut into equal parts.
    """
    micro_batch = config.micro_batch_size or max(1, config.batch_size // num_processes)
    if config.batch_size % (micro_batch * num_processes):
        raise ConfigError(
            f"A batch of {config.batch_size} cannot be shared by {num_processes} processes in "
            f"micro-batches of {micro_batch}.",
            hint="--batch-size counts over all processes: make it a multiple of their number "
            "times --micro-batch-size.",
        )
    return micro_batch, config.batch_size // (micro_batch * num_processes)


def is_checkpointing(config: FinetuneConfig, device_type: str) -> bool:
    """Whether activations are computed again instead of kept."""
    chosen = config.gradient_checkpointing
    return device_type == "cuda" if chosen is None else chosen


def count_steps(num_samples: int, config: FinetuneConfig) -> int:
    """Optimiser steps of a whole training."""
    return math.ceil(math.ceil(num_samples / config.batch_size) * config.epochs)


def _save_adapter(vlm: VisionLanguageModel, output_dir: Path) -> None:
    import shutil

    try:
        vlm.model.peft_config["default"].base_model_name_or_path = vlm.name
        # Left to decide for itself, PEFT would ask the hub whether the vocabulary has grown.
        vlm.model.save_pretrained(str(output_dir), save_embedding_layers=False)
        write_adapter_card(output_dir, vlm)
        shutil.rmtree(output_dir / CHECKPOINT_DIR, ignore_errors=True)
        # PEFT's model card template says nothing of this adapter.
        (output_dir / "README.md").unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise _unwritable("adapter", error) from error


def _unwritable(what: str, error: Exception) -> StorageError:
    return StorageError(
        f"The {what} cannot be written: {first_line(error)}",
        hint="Free some space and run the same command again: it goes on from the last checkpoint.",
    )
