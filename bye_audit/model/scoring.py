"""Everything one sample's score is made of, from as few forward passes as will do.

One pass with the adapter gives attention and the answer's likelihood; a second without it gives the
likelihood under the base model.

Shape legend: L layers, H heads, S statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from bye_audit.config import ScoreConfig
from bye_audit.model.attention import AttentionProbe, AttentionReading
from bye_audit.model.likelihood import first_answer_logp, last_logits, num_answer_logits
from bye_audit.model.loading import VisionLanguageModel, first_line
from bye_audit.model.prompts import Conversation, ConversationError, Encoding, order_by_length
from bye_audit.model.spans import check_image_positions
from bye_audit.schema import ScoreStatus

_DEFAULT_BATCH = 16


@dataclass(frozen=True, slots=True)
class SampleScore:
    """What is stored of one sample; NaN becomes null."""

    sample_id: str
    status: ScoreStatus
    error: str | None = None
    num_image_tokens: int | None = None
    entropy_L: NDArray[np.float64] | None = None
    image_mass_L: NDArray[np.float64] | None = None
    heads_SLH: NDArray[np.float64] = field(default_factory=lambda: np.empty((4, 0, 0)))
    """Image entropy, then the masses on system, image and text."""
    answer_logp: float = np.nan
    answer_logp_base: float = np.nan


class SampleScorer:
    """Scores conversations with one model while its context is open.

    Parameters
    ----------
    vlm
        The provisional model.
    config
        Batch size, and whether likelihoods are wanted.
    """

    def __init__(self, vlm: VisionLanguageModel, config: ScoreConfig) -> None:
        self._vlm = vlm
        self._config = config
        self._probe = AttentionProbe(vlm)
        self._is_checked = False

    def __enter__(self) -> Self:
        self._probe.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._probe.__exit__(kind, error, trace)

    def score(self, conversations: Mapping[str, Conversation]) -> Iterator[list[SampleScore]]:
        """Score conversations by sample id, batch by batch.

        Yields
        ------
        list[SampleScore]
            In an order of its own, each sample once.

        Raises
        ------
        UnsupportedModelError
            If image features and image tokens do not meet.
        """
        ids: list[str] = []
        encodings: list[Encoding] = []
        failed: list[SampleScore] = []
        for sample_id, conversation in conversations.items():
            try:
                encoding = self._vlm.encoder.encode(
                    conversation, with_answers=self._config.plausibility
                )
            except ConversationError as error:
                failed.append(SampleScore(sample_id, ScoreStatus.ERROR, first_line(error)))
                continue
            if self._vlm.encoder.image_token_id not in encoding.inputs["input_ids"]:
                failed.append(
                    SampleScore(sample_id, ScoreStatus.NOT_SCORABLE, "no image before the answer")
                )
                continue
            ids.append(sample_id)
            encodings.append(encoding)
        if failed:
            yield failed
        if encodings:
            self._check_once(encodings[0])
        for chosen in self._batches(encodings):
            yield self._score_batch([ids[i] for i in chosen], [encodings[i] for i in chosen])

    def _batches(self, encodings: list[Encoding]) -> list[list[int]]:
        ordered = order_by_length(encodings, self._config.batch_size or _DEFAULT_BATCH)
        if self._vlm.device.type != "cpu" or self._config.batch_size is not None:
            return ordered
        # On a CPU padding costs more than batching gives: only equal lengths go together.
        groups: dict[int, list[int]] = {}
        for index, encoding in enumerate(encodings):
            groups.setdefault(encoding.prompt_length, []).append(index)
        return [
            group[start : start + _DEFAULT_BATCH]
            for _, group in sorted(groups.items())
            for start in range(0, len(group), _DEFAULT_BATCH)
        ]

    def _check_once(self, encoding: Encoding) -> None:
        if self._is_checked:
            return
        batch = self._vlm.encoder.collate([encoding], with_answers=False)
        check_image_positions(self._vlm.base, batch.to(self._vlm.device), batch.image_BS)
        self._is_checked = True

    def _score_batch(self, ids: list[str], encodings: list[Encoding]) -> list[SampleScore]:
        try:
            return self._score_together(ids, encodings)
        # Out of memory, or a sample the model itself chokes on: halve until it stands alone.
        except (RuntimeError, ValueError, IndexError) as error:
            if len(ids) == 1:
                return [SampleScore(ids[0], ScoreStatus.ERROR, first_line(error))]
            is_memory = isinstance(error, torch.OutOfMemoryError)
        if is_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(ids) // 2
        return [
            *self._score_batch(ids[:middle], encodings[:middle]),
            *self._score_batch(ids[middle:], encodings[middle:]),
        ]

    def _score_together(self, ids: list[str], encodings: list[Encoding]) -> list[SampleScore]:
        has_answers = any(encoding.continuation_ids for encoding in encodings)
        batch = self._vlm.encoder.collate(encodings, with_answers=has_answers)
        logp = base = np.full(len(ids), np.nan)
        if has_answers:
            reading, logits = self._probe.read_with_logits(batch, num_answer_logits(batch))
            logp = first_answer_logp(logits, batch, encodings)
            if self._vlm.has_adapter:
                with self._vlm.without_adapter():
                    base = first_answer_logp(last_logits(self._vlm, batch), batch, encodings)
        else:
            reading = self._probe.read(batch)
        return [
            _to_score(sample_id, row, reading, float(logp[row]), float(base[row]))
            for row, sample_id in enumerate(ids)
        ]


def _to_score(
    sample_id: str, row: int, reading: AttentionReading, logp: float, base: float
) -> SampleScore:
    heads_SLH = np.stack(
        [
            reading.head_entropy_BLH[row],
            reading.system_mass_BLH[row],
            reading.image_mass_BLH[row],
            reading.text_mass_BLH[row],
        ]
    )
    if not np.isfinite(reading.entropy_BL[row]).any():
        return SampleScore(sample_id, ScoreStatus.ERROR, "attention to the image is not finite")
    return SampleScore(
        sample_id,
        ScoreStatus.OK,
        num_image_tokens=int(reading.num_image_tokens_B[row]),
        entropy_L=reading.entropy_BL[row],
        image_mass_L=reading.image_mass_BL[row],
        heads_SLH=heads_SLH,
        answer_logp=logp,
        answer_logp_base=base,
    )
