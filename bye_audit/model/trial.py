"""A few real steps on a handful of samples, to learn what one costs on this machine."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bye_audit.config import FinetuneConfig, ScoreConfig
from bye_audit.errors import ModelError
from bye_audit.model.encodings import Encoding
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.lora import train_lora
from bye_audit.model.prompts import Conversation, ConversationError
from bye_audit.model.samples import prepare_sample
from bye_audit.model.scoring import SampleScorer

# The first step pays for what is made once: it is not counted.
_NUM_STEPS = 4
# A CPU's time grows with the batch, so a small one tells as much.
_LARGEST_CPU_BATCH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What the samples are like and what they cost."""

    num_samples: int
    """Samples looked at that can be encoded."""
    longest: int
    """Positions of the longest of them."""
    most_logits: int
    """Most positions that predict something, in any of them."""
    shortest_prompt: int
    micro_batch_size: int
    finetune_seconds_per_sample: float
    """Forward, backward and optimiser: the median of three micro-steps."""
    score_seconds_per_sample: float
    """Both passes of scoring."""
    peak_device_bytes: int | None
    """Most memory of the GPU during a step; None on a CPU."""


def run_trial(
    vlm: VisionLanguageModel, conversations: Sequence[Conversation], config: FinetuneConfig
) -> Trial:
    """Train and score a handful of samples; what was learnt is thrown away.

    Parameters
    ----------
    vlm
        The base model; the trial's adapter is off it again at the end.
    conversations
        Samples of the data that is planned for.
    config
        Settings of the training.

    Returns
    -------
    Trial
        Unit costs.

    Raises
    ------
    ModelError
        If no conversation can be used, or memory does not suffice.
    """
    usable = _encodable(vlm, conversations, config.max_length)
    if not usable:
        raise ModelError("None of the samples looked at can be used for fine-tuning.")
    encodings = [encoding for _, encoding in usable]
    chosen = [conversation for conversation, _ in usable]
    micro_batch = config.micro_batch_size or config.batch_size
    if vlm.device.type == "cpu":
        micro_batch = min(micro_batch, _LARGEST_CPU_BATCH)
    if vlm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(vlm.device)
    step_seconds = _time_steps(vlm, chosen, replace(config, batch_size=micro_batch))
    peak = torch.cuda.max_memory_allocated(vlm.device) if vlm.device.type == "cuda" else None
    score_seconds = _time_scoring(vlm, chosen)
    vlm.drop_adapter()
    return Trial(
        num_samples=len(usable),
        longest=max(encoding.length for encoding in encodings),
        most_logits=max(len(encoding.continuation_ids) + 1 for encoding in encodings),
        shortest_prompt=min(encoding.prompt_length for encoding in encodings),
        micro_batch_size=micro_batch,
        finetune_seconds_per_sample=step_seconds / micro_batch,
        score_seconds_per_sample=score_seconds,
        peak_device_bytes=peak,
    )


def _encodable(
    vlm: VisionLanguageModel, conversations: Sequence[Conversation], max_length: int
) -> list[tuple[Conversation, Encoding]]:
    found = []
    for conversation in conversations:
        try:
            encoding = vlm.encoder.encode(conversation)
        except ConversationError:
            continue
        if encoding.labels and encoding.length <= max_length:
            found.append((conversation, encoding))
    return found


class _Stopwatch:
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[_Stopwatch]:
        del description, total, unit
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        del amount, note
        self.times.append(time.monotonic())


def _time_steps(
    vlm: VisionLanguageModel, conversations: list[Conversation], config: FinetuneConfig
) -> float:
    """Median seconds of a micro-step that is a whole optimiser step."""
    num_needed = _NUM_STEPS * config.batch_size
    repeated = (conversations * -(-num_needed // len(conversations)))[:num_needed]
    one_each = replace(config, epochs=1, micro_batch_size=None)
    stopwatch = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="bye-audit-trial-") as folder:
        train_lora(vlm, repeated, one_each, Path(folder), stopwatch)
    pairs = zip(stopwatch.times, stopwatch.times[1:], strict=False)
    return statistics.median(after - before for before, after in pairs)


def _time_scoring(vlm: VisionLanguageModel, conversations: list[Conversation]) -> float:
    """Seconds a sample in the model, the first pass not counted."""
    samples = [
        prepare_sample(vlm.encoder, str(number), conversation, "first")
        for number, conversation in enumerate(conversations)
    ]
    with SampleScorer(vlm, ScoreConfig()) as scorer:
        list(scorer.score(samples[:1]))
        started = time.monotonic()
        list(scorer.score(samples))
    return (time.monotonic() - started) / len(samples)
