"""What fine-tuning and scoring will take, told before hours are spent on them.

Reads ``messages`` and ``images`` of a handful of samples; writes nothing. Memory and disk are
computed from the model's config; times are measured by a few real steps on the audit's own samples,
where the model's weights are there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bye_audit.config import FinetuneConfig
from bye_audit.errors import MissingDependencyError, ModelError
from bye_audit.finetune import StoredConversations, require_images
from bye_audit.progress import SILENT, Progress
from bye_audit.store.tables import AuditTables

if TYPE_CHECKING:
    from bye_audit.model.memory import MemoryEstimate, ModelShape
    from bye_audit.model.prompts import Conversation
    from bye_audit.model.trial import Trial

_NUM_LOOKED_AT = 16
_SCORE_BATCH = 16
# An adapter and the two moments of each weight, twice while a checkpoint replaces the last, and
# the adapter itself at the end.
_PEAK_DISK_BYTES = 2 * 12 + 4


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Memory of both stages for samples of one length."""

    length: int
    """Positions of a sample."""
    num_logits: int
    """Positions of it that predict something."""
    finetune: MemoryEstimate
    score: MemoryEstimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will take; memory and disk in bytes, times in seconds."""

    num_samples: int
    num_steps: int
    device: str
    precision: str
    micro_batch_size: int
    is_checkpointing: bool
    num_base_weights: int
    num_trained_weights: int
    num_adapted_layers: int
    at_longest_seen: MemoryPlan | None
    """For the longest sample looked at; None where none could be encoded."""
    at_max_length: MemoryPlan
    """For the longest sample that may be trained on."""
    device_memory: int | None
    """All the device has; None for a device that is not here."""
    finetune_disk: int
    """While it runs, checkpoints included."""
    score_disk: int
    """Before compression."""
    free_disk: int
    trial: Trial | None
    finetune_seconds: float | None
    score_seconds: float | None
    not_measured: str
    """Why there are no times; empty where there are."""

    @property
    def warnings(self) -> list[str]:
        """What will not fit, one sentence each."""
        found = []
        seen = self.at_longest_seen or self.at_max_length
        for stage, estimate in (("Fine-tuning", seen.finetune), ("Scoring", seen.score)):
            if self.device_memory is not None and estimate.total > self.device_memory:
                found.append(
                    f"{stage} samples of {seen.length:,} positions needs more memory than is here."
                )
        if self.finetune_disk + self.score_disk > self.free_disk:
            found.append("Checkpoints, adapter and scores need more room than the disk has free.")
        return found


def plan_audit(
    tables: AuditTables,
    model: str,
    config: FinetuneConfig,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Plan:
    """Estimate what fine-tuning and scoring an audit will take.

    Parameters
    ----------
    tables
        The audit.
    model
        Folder or hub id of the base model; for memory and disk its config is enough.
    config
        Settings of the fine-tuning.
    device
        ``cpu`` or ``cuda``. None: what a run would use here.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    Plan
        With times where they could be measured.

    Raises
    ------
    EmptySourceError
        If no sample has an image.
    UnsupportedModelError
        If the config is none of a vision-language model.
    """
    require_images(tables)
    import torch

    from bye_audit.model.memory import sketch_model

    here = "cuda" if torch.cuda.is_available() else "cpu"
    where = device or here
    with progress.task("Planning", 2, "steps") as task:
        shape = sketch_model(model, config, trust_remote_code=trust_remote_code)
        task.advance(1, "memory computed")
        if where == here:
            trial, reason = _try_out(tables, model, config, trust_remote_code)
        else:
            trial, reason = None, f"no {where} is here"
        task.advance(1, "times measured" if trial else "")
    return _make_plan(tables, shape, trial, reason, config, where, is_here=where == here)


def _try_out(
    tables: AuditTables, model: str, config: FinetuneConfig, trust_remote_code: bool
) -> tuple[Trial | None, str]:
    """Run real steps, or say why that cannot be done."""
    from bye_audit.model.files import find_folder
    from bye_audit.model.loading import load_model
    from bye_audit.model.trial import run_trial

    folder, name, _ = find_folder(model)
    if not any(folder.glob("*.safetensors")):
        return None, f"the folder of {name} has a config but no weights"
    try:
        vlm = load_model(
            model, trust_remote_code=trust_remote_code, quantization=config.quantization
        )
        return run_trial(vlm, _handful(tables), config), ""
    except (ModelError, MissingDependencyError) as error:
        # What keeps a step from running is the plan's most useful finding, not its end.
        return None, error.message.rstrip(".")


def _handful(tables: AuditTables) -> list[Conversation]:
    """Take samples spread evenly over the audit and leave out those that cannot be decoded."""
    stored = StoredConversations(tables)
    step = max(1, len(stored) // _NUM_LOOKED_AT)
    numbers = list(range(0, len(stored), step))[:_NUM_LOOKED_AT]
    return [found for found in stored.__getitems__(numbers) if found is not None]


def _make_plan(
    tables: AuditTables,
    shape: ModelShape,
    trial: Trial | None,
    reason: str,
    config: FinetuneConfig,
    device: str,
    *,
    is_here: bool,
) -> Plan:
    from bye_audit.model.lora import count_steps, is_checkpointing

    num_samples = tables.num_samples()
    scored = 2 * 4 * len(shape.layers) + 4 * 2 * len(shape.layers) * shape.num_heads
    shortest_prompt = trial.shortest_prompt if trial else 0
    limits = config.max_length, config.max_length - shortest_prompt
    return Plan(
        num_samples=num_samples,
        num_steps=count_steps(num_samples, config),
        device=device,
        precision="bfloat16" if device == "cuda" else "float32",
        micro_batch_size=config.micro_batch_size or config.batch_size,
        is_checkpointing=is_checkpointing(config, device),
        num_base_weights=shape.num_base_weights,
        num_trained_weights=shape.num_trained_weights,
        num_adapted_layers=shape.num_adapted_layers,
        at_longest_seen=_plan_memory(shape, trial.longest, trial.most_logits, config, device)
        if trial
        else None,
        at_max_length=_plan_memory(shape, *limits, config, device),
        device_memory=_device_memory(device) if is_here else None,
        finetune_disk=_PEAK_DISK_BYTES * shape.num_trained_weights,
        score_disk=num_samples * scored,
        free_disk=_free_disk(tables.uri),
        trial=trial,
        finetune_seconds=trial.finetune_seconds_per_sample * num_samples * config.epochs
        if trial
        else None,
        score_seconds=trial.score_seconds_per_sample * num_samples if trial else None,
        not_measured=reason,
    )


def _plan_memory(
    shape: ModelShape, length: int, num_logits: int, config: FinetuneConfig, device: str
) -> MemoryPlan:
    from bye_audit.model.lora import is_checkpointing
    from bye_audit.model.memory import estimate_finetune, estimate_score

    value_bytes = 2 if device == "cuda" else 4
    return MemoryPlan(
        length=length,
        num_logits=num_logits,
        finetune=estimate_finetune(
            shape,
            num_samples=config.micro_batch_size or config.batch_size,
            length=length,
            num_logits=num_logits,
            value_bytes=value_bytes,
            is_checkpointing=is_checkpointing(config, device),
            quantization=config.quantization,
        ),
        score=estimate_score(
            shape,
            num_samples=_SCORE_BATCH,
            length=length,
            num_logits=num_logits,
            value_bytes=value_bytes,
            quantization=config.quantization,
        ),
    )


def _device_memory(device: str) -> int | None:
    import torch

    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_disk(uri: str) -> int:
    # Adapters are refused in an object store, so an audit that is planned for is a folder.
    return shutil.disk_usage(Path(uri)).free
