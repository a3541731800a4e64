"""Everything one sample's score is made of, from as few forward passes as will do.

One pass with the adapter gives attention and the answer's likelihood; a second without it gives the
likelihood under the base model. Questions about the same image share what they can.

Shape legend: L layers, H heads, N readings, S statistics, A of an answer (mean, first, minimum).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bye_audit.config import ScoreConfig
from bye_audit.errors import UnsupportedModelError
from bye_audit.model.attention import AttentionProbe, AttentionReading
from bye_audit.model.budget import TokenBudget
from bye_audit.model.encodings import Encoding
from bye_audit.model.files import first_line
from bye_audit.model.grouping import batch_by_length, group_by_images, group_by_prefix
from bye_audit.model.image_memory import ImageFeatureMemory
from bye_audit.model.likelihood import (
    answer_logp,
    first_answer_logp,
    last_logits,
    num_answer_logits,
)
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.packing import Question, SharedPrefix, can_pack, prefix_inputs
from bye_audit.model.samples import PreparedSample, SampleScore, TurnScore
from bye_audit.schema import ANSWER_LOGP_COLUMNS, ScoreStatus

# What the same arithmetic in another order may move an entropy (nats) or a mean log-likelihood.
_NOISE = {torch.float32: 1e-5, torch.float64: 1e-9}
_NOISE_OF_HALF = 3e-2


@dataclass(frozen=True, slots=True)
class _Measured:
    """Readings and likelihoods of a few samples, in their order."""

    reading: AttentionReading
    logp_NA: NDArray[np.float64]
    base_logp_NA: NDArray[np.float64]
    is_one: bool = False
    """Whether the readings are turns of one sample."""


class SampleScorer:
    """Scores samples with one model while its context is open.

    Parameters
    ----------
    vlm
        The provisional model.
    config
        Which layers, how many tokens a pass, and whether likelihoods are wanted.
    """

    def __init__(self, vlm: VisionLanguageModel, config: ScoreConfig) -> None:
        self._vlm = vlm
        self._config = config
        self._probe = AttentionProbe(vlm.model, config.layers)
        self.model_seconds = 0.0
        """Time spent in forward passes."""
        self._packs = config.reuse_prefix and can_pack(self._probe)
        self._is_packing_checked = False
        self._are_answers_checked = False
        self._images = {
            speaker: ImageFeatureMemory(self._probe.base) for speaker in ("adapter", "base")
        }
        self._budget = TokenBudget(vlm.device, config.batch_tokens)

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

    @property
    def probe(self) -> AttentionProbe:
        """What reads the attention."""
        return self._probe

    @property
    def reuses_prefixes(self) -> bool:
        """Whether questions about one image share its part of the prompt."""
        return self._packs

    def score(self, samples: Sequence[PreparedSample]) -> Iterator[list[SampleScore]]:
        """Score samples, those that can share work together.

        Yields
        ------
        list[SampleScore]
            In an order of its own, each sample once.

        Raises
        ------
        UnsupportedModelError
            If image features and image tokens do not meet.
        """
        aside = [sample.aside for sample in samples if sample.aside is not None]
        if aside:
            yield aside
        ids = [sample.sample_id for sample in samples if sample.encoding is not None]
        encodings = [sample.encoding for sample in samples if sample.encoding is not None]
        if encodings:
            # Before any feature is kept: this looks what other pixels change.
            self._probe.make_request(encodings[0].inputs, stops_early=True)
            self._check_answers(next((e for e in encodings if e.continuation_ids), None))
        turns = [i for i, encoding in enumerate(encodings) if len(encoding.answers) > 1]
        for index in turns:
            yield self._score_parts(ids, encodings, [index], self._measure_turns)
        groups = group_by_prefix(encodings) if self._packs else []
        groups = [part for group in groups if len(part := [i for i in group if i not in turns]) > 1]
        for group in groups:
            self._check_packing([encodings[i] for i in group[:2]])
            if not self._packs:
                break
            yield from self._score_group(ids, encodings, group)
        done = {i for group in groups for i in group} if self._packs else set()
        done.update(turns)
        rest = [i for i in range(len(ids)) if i not in done]
        # On a CPU padding costs more than batching gives: only equal lengths go together. And one
        # by one costs no more than in a batch, while the image's features can be kept.
        pads = self._vlm.device.type != "cpu"
        repeated = [] if pads else group_by_images(encodings, rest)
        for index in (index for group in repeated for index in group):
            rest.remove(index)
            yield self._score_parts(ids, encodings, [index], self._measure_batch)
        most = self._budget.tokens if self._probe.view.takes_batches else 1
        for batch in batch_by_length(encodings, rest, most, pads=pads):
            yield self._score_parts(ids, encodings, batch, self._measure_batch)

    def _score_group(
        self, ids: Sequence[str], encodings: Sequence[Encoding], group: Sequence[int]
    ) -> Iterator[list[SampleScore]]:
        """Score questions that share a prefix, as many at once as there is room for."""
        room = self._budget.tokens - encodings[group[0]].image_end
        part: list[int] = []
        used = 0
        for index in group:
            length = encodings[index].length - encodings[index].image_end
            if part and used + length > room:
                yield self._score_parts(ids, encodings, part, self._measure_group)
                part, used = [], 0
            part.append(index)
            used += length
        yield self._score_parts(ids, encodings, part, self._measure_group)

    def _score_parts(
        self,
        ids: Sequence[str],
        encodings: Sequence[Encoding],
        chosen: Sequence[int],
        measure: Callable[[list[Encoding]], _Measured],
    ) -> list[SampleScore]:
        try:
            measured = measure([encodings[i] for i in chosen])
            self._budget.after_pass(sum(encodings[i].length for i in chosen))
        # Out of memory, or a sample the model itself chokes on: halve until it stands alone.
        except (RuntimeError, ValueError, IndexError) as error:
            if len(chosen) == 1:
                return [SampleScore(ids[chosen[0]], ScoreStatus.ERROR, first_line(error))]
            is_memory = isinstance(error, torch.OutOfMemoryError)
        else:
            return [_to_score(ids[i], row, measured) for row, i in enumerate(chosen)]
        if is_memory:
            self._budget.after_failure()
            torch.cuda.empty_cache()
        middle = len(chosen) // 2
        halves = chosen[:middle], chosen[middle:]
        return [s for half in halves for s in self._score_parts(ids, encodings, half, measure)]

    def _measure_batch(self, encodings: list[Encoding]) -> _Measured:
        """Measure prompts side by side."""
        has_answers = any(encoding.continuation_ids for encoding in encodings)
        batch = self._vlm.encoder.collate(encodings, with_answers=has_answers)
        logp = base = np.full((len(encodings), 3), np.nan)
        spans = {"rows_BR": batch.last_rows, "system_BS": batch.system_BS}
        if not has_answers:
            with self._in_model(encodings, "adapter"):
                return _Measured(self._probe.read(batch.inputs, **spans), logp, base)
        keep = num_answer_logits(batch)
        with self._in_model(encodings, "adapter"):
            reading, outputs = self._probe.read_with_outputs(
                batch.inputs, **spans, logits_to_keep=keep
            )
        logp = first_answer_logp(outputs.logits[:, -keep:], encodings)
        if self._vlm.has_adapter:
            # The projector may have been trained too, so the base has features of its own.
            with self._vlm.without_adapter(), self._in_model(encodings, "base"):
                base = first_answer_logp(last_logits(self._vlm, batch), encodings)
        return _Measured(reading, logp, base)

    @contextmanager
    def _in_model(self, encodings: list[Encoding], speaker: str) -> Iterator[None]:
        """Count the time; let a prompt that is alone take what was made of its image before."""
        first = encodings[0]
        is_alone = len(encodings) == 1 and first.image_ids and not first.later_inputs
        started = time.monotonic()
        with self._images[speaker].about(first.image_ids) if is_alone else nullcontext():
            yield
        self.model_seconds += time.monotonic() - started

    def _measure_turns(self, encodings: list[Encoding]) -> _Measured:
        """Measure every answer of one conversation, its own history before each."""
        (encoding,) = encodings
        batch = self._vlm.encoder.collate(encodings, with_answers=True)
        starts = torch.tensor([[start for start, _ in encoding.answers]])
        spans = {"rows_BR": batch.prompt_length - 1 + starts, "system_BS": batch.system_BS}
        nothing = np.full((len(encoding.answers), 3), np.nan)
        if not self._config.plausibility:
            with self._in_model(encodings, "adapter"):
                reading = self._probe.read(batch.inputs, **spans)
            return _Measured(reading, nothing, nothing, is_one=True)
        keep = num_answer_logits(batch)
        with self._in_model(encodings, "adapter"):
            reading, outputs = self._probe.read_with_outputs(
                batch.inputs, **spans, logits_to_keep=keep
            )

        def likelihoods(logits_SV: Tensor) -> NDArray[np.float64]:
            turns = range(len(encoding.answers))
            return np.array([answer_logp(logits_SV, encoding, turn) for turn in turns])

        base = nothing
        if self._vlm.has_adapter:
            with self._vlm.without_adapter(), self._in_model(encodings, "base"):
                base = likelihoods(last_logits(self._vlm, batch)[0])
        return _Measured(reading, likelihoods(outputs.logits[0, -keep:]), base, is_one=True)

    def _measure_group(self, encodings: list[Encoding]) -> _Measured:
        """Measure questions packed behind the prefix that they share."""
        has_answers = any(encoding.continuation_ids for encoding in encodings)
        with self._in_model(encodings, "adapter"):
            reading, logits = self._ask(encodings, is_deep=has_answers)
        logp = base = np.full((len(encodings), 3), np.nan)
        if has_answers:
            logp = first_answer_logp(logits, encodings)
            if self._vlm.has_adapter:
                with self._vlm.without_adapter(), self._in_model(encodings, "base"):
                    _, logits = self._ask(encodings, is_deep=True)
                base = first_answer_logp(logits, encodings)
        return _Measured(reading, logp, base)

    def _ask(
        self, encodings: list[Encoding], *, is_deep: bool
    ) -> tuple[AttentionReading, list[Tensor]]:
        first = encodings[0]
        prefix = SharedPrefix(
            self._probe,
            prefix_inputs(first.inputs, first.image_end),
            first.system_length,
            is_deep=is_deep,
        )
        return prefix.ask(
            [
                Question(e.inputs["input_ids"][0, e.image_end :].tolist(), e.continuation_ids)
                for e in encodings
            ]
        )

    def _check_answers(self, encoding: Encoding | None) -> None:
        """Make sure, once, that a prompt does not look ahead into its answer."""
        if encoding is None or self._are_answers_checked:
            return
        self._are_answers_checked = True
        alone = self._probe.read(encoding.inputs)
        batch = self._vlm.encoder.collate([encoding], with_answers=True)
        followed = self._probe.read(batch.inputs, rows_BR=batch.last_rows)
        if not self._is_same(alone.entropy_NL, followed.entropy_NL):
            raise UnsupportedModelError(
                f"Prompts of {self._vlm.name} look ahead into their answers, so one pass cannot "
                "measure both.",
                hint="Score with --no-plausibility.",
            )

    def _is_same(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
        noise = _NOISE.get(self._vlm.dtype, _NOISE_OF_HALF)
        return np.allclose(one, other, rtol=0, atol=noise, equal_nan=True)

    def _check_packing(self, pair: list[Encoding]) -> None:
        """Compare two questions packed with the same two alone, once; do without if they differ."""
        if self._is_packing_checked:
            return
        self._is_packing_checked = True
        try:
            packed = self._measure_group(pair)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            self._packs = False
            return
        for row, encoding in enumerate(pair):
            alone = self._measure_batch([encoding])
            self._packs = (
                self._packs
                and self._is_same(packed.reading.entropy_NL[row], alone.reading.entropy_NL[0])
                and np.allclose(packed.logp_NA[row], alone.logp_NA[0], 1e-2, 1e-3, equal_nan=True)
            )


def _to_score(sample_id: str, row: int, measured: _Measured) -> SampleScore:
    reading = measured.reading
    if not np.isfinite(reading.entropy_NL[row]).any():
        return SampleScore(sample_id, ScoreStatus.ERROR, "attention to the image is not finite")
    return SampleScore(
        sample_id,
        ScoreStatus.OK,
        num_image_tokens=int(reading.num_image_tokens_N[row]),
        entropy_L=reading.entropy_NL[row],
        image_mass_L=reading.image_mass_NL[row],
        heads_SLH=np.stack(
            [
                reading.head_entropy_NLH[row],
                reading.system_mass_NLH[row],
                reading.image_mass_NLH[row],
                reading.text_mass_NLH[row],
            ]
        ),
        **dict(
            zip(
                ANSWER_LOGP_COLUMNS,
                [*measured.logp_NA[row].tolist(), *measured.base_logp_NA[row].tolist()],
                strict=True,
            )
        ),
        later_turns=_later_turns(measured) if measured.is_one else (),
    )


def _later_turns(measured: _Measured) -> tuple[TurnScore, ...]:
    reading = measured.reading
    return tuple(
        TurnScore(
            turn=turn,
            num_image_tokens=int(reading.num_image_tokens_N[turn]),
            entropy_L=reading.entropy_NL[turn],
            image_mass_L=reading.image_mass_NL[turn],
            answer_logp=float(measured.logp_NA[turn, 0]),
            answer_logp_base=float(measured.base_logp_NA[turn, 0]),
        )
        for turn in range(1, len(reading.entropy_NL))
    )
