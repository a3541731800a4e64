"""Samples on their way through scoring: encoded before it, measured after it.

Shape legend: L layers, H heads, S statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.model.encodings import Encoding
from bye_audit.model.files import first_line
from bye_audit.model.prompts import Conversation, ConversationEncoder, ConversationError
from bye_audit.schema import ScoreStatus


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
    answer_logp_first: float = np.nan
    answer_logp_min: float = np.nan
    answer_logp_base: float = np.nan
    answer_logp_base_first: float = np.nan
    answer_logp_base_min: float = np.nan
    later_turns: tuple[TurnScore, ...] = ()
    """Where all turns were asked for."""


@dataclass(frozen=True, slots=True)
class TurnScore:
    """What is stored of a later answer of a conversation."""

    turn: int
    """Number of the answer; the first is 0."""
    num_image_tokens: int
    entropy_L: NDArray[np.float64]
    image_mass_L: NDArray[np.float64]
    answer_logp: float
    answer_logp_base: float


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """A sample as model input, or why it has none."""

    sample_id: str
    encoding: Encoding | None = None
    aside: SampleScore | None = None


def prepare_sample(
    encoder: ConversationEncoder,
    sample_id: str,
    conversation: Conversation,
    answers: Literal["none", "first", "all"],
) -> PreparedSample:
    """Encode one conversation for scoring; nothing a dataset holds makes this fail."""
    try:
        encoding = encoder.encode(conversation, answers)
    except ConversationError as error:
        return set_aside(sample_id, ScoreStatus.ERROR, first_line(error))
    if not encoding.image_end:
        return set_aside(sample_id, ScoreStatus.NOT_SCORABLE, "no image before the answer")
    return PreparedSample(sample_id, encoding)


def set_aside(sample_id: str, status: ScoreStatus, reason: str) -> PreparedSample:
    """Make what stands for a sample that the model will never see."""
    return PreparedSample(sample_id, aside=SampleScore(sample_id, status, reason))
