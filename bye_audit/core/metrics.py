"""How good a detection and how successful an attack was, against known truth.

Only benchmarks, the demo and the canary know the truth; no stage imports this. Positive means
poisoned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Not signs and symbols: "-5" is another answer than "5".
_PUNCTUATION = ".,;:!?\"'()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A counted fraction with its 95 % Wilson interval.

    Parameters
    ----------
    num_hits, num_trials
        What was counted.
    value
        ``num_hits / num_trials``; None if nothing was tried.
    low, high
        Ends of the interval; None if nothing was tried.
    """

    num_hits: int
    num_trials: int
    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """Fields as plain values."""
        return asdict(self)


def wilson_proportion(num_hits: int, num_trials: int, z: float = 1.959963984540054) -> Proportion:
    """Fraction of hits with its Wilson score interval.

    Parameters
    ----------
    num_hits, num_trials
        ``0 <= num_hits <= num_trials``.
    z
        Normal quantile of the interval; the default gives 95 %.

    Returns
    -------
    Proportion
        The interval stays within [0, 1] and has a width even for 0 or all hits.

    Raises
    ------
    ValueError
        If the counts are impossible.

    Examples
    --------
    >>> rate = wilson_proportion(10, 10)
    >>> rate.value, round(rate.low, 3), round(rate.high, 3)
    (1.0, 0.722, 1.0)
    """
    if not 0 <= num_hits <= num_trials:
        raise ValueError(f"{num_hits} hits of {num_trials} trials is impossible")
    if num_trials == 0:
        return Proportion(num_hits=0, num_trials=0, value=None, low=None, high=None)
    share = num_hits / num_trials
    scale = 1 + z**2 / num_trials
    middle = (share + z**2 / (2 * num_trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2))
    return Proportion(
        num_hits=num_hits,
        num_trials=num_trials,
        value=share,
        # At the ends the formula gives exactly 0 or 1 but for rounding.
        low=0.0 if num_hits == 0 else max(0.0, middle - half),
        high=1.0 if num_hits == num_trials else min(1.0, middle + half),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionMetrics:
    """Quality of a set of flags; ``f1`` is None where nothing is flagged and nothing is poisoned.

    Parameters
    ----------
    precision
        Share of the flagged that are poisoned.
    recall
        Share of the poisoned that are flagged.
    false_positive_rate
        Share of the clean that are flagged.
    f1
        Harmonic mean of precision and recall.
    """

    precision: Proportion
    recall: Proportion
    false_positive_rate: Proportion
    f1: float | None

    def to_json(self) -> dict[str, Any]:
        """Fields as plain values."""
        return asdict(self)


def precision_recall_f1(flag_N: ArrayLike, truth_N: ArrayLike) -> DetectionMetrics:
    """Compare flags with the truth.

    Parameters
    ----------
    flag_N
        True where a sample is suspected.
    truth_N
        True where it is poisoned.

    Returns
    -------
    DetectionMetrics
        As fractions in [0, 1].

    Raises
    ------
    ValueError
        If the two differ in length.

    Examples
    --------
    >>> quality = precision_recall_f1([True, True, False, False], [True, False, True, False])
    >>> quality.precision.value, quality.recall.value, quality.f1
    (0.5, 0.5, 0.5)
    """
    flag = np.asarray(flag_N, dtype=bool)
    truth = np.asarray(truth_N, dtype=bool)
    if flag.shape != truth.shape or flag.ndim != 1:
        raise ValueError(f"flags {flag.shape} and truth {truth.shape} must be alike, in one row")
    num_hits = int((flag & truth).sum())
    num_flagged, num_poisoned = int(flag.sum()), int(truth.sum())
    total = num_flagged + num_poisoned
    return DetectionMetrics(
        precision=wilson_proportion(num_hits, num_flagged),
        recall=wilson_proportion(num_hits, num_poisoned),
        false_positive_rate=wilson_proportion(num_flagged - num_hits, truth.size - num_poisoned),
        f1=2 * num_hits / total if total else None,
    )


def clean_performance(answers: Sequence[str], references: Sequence[str]) -> Proportion:
    """Share of answers to unmodified inputs that are exactly right; higher is better.

    Parameters
    ----------
    answers
        What the model said.
    references
        What it should have said, in the same order.

    Returns
    -------
    Proportion
        Case, spacing and closing punctuation do not count.

    Raises
    ------
    ValueError
        If the two differ in length.

    Examples
    --------
    >>> clean_performance(["Red.", "two"], ["red", "three"]).value
    0.5
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers do not match {len(references)} references")
    pairs = zip(answers, references, strict=True)
    hits = sum(normalize_answer(answer) == normalize_answer(right) for answer, right in pairs)
    return wilson_proportion(hits, len(answers))


def normalize_answer(text: str) -> str:
    """Lower-case words of a text, one blank between them, without the sentence's punctuation."""
    words = (word.strip(_PUNCTUATION) for word in text.casefold().split())
    return " ".join(word for word in words if word)
