"""From what was seen at each rate to the rate below which poison would not be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bye_audit.schema import Decision


class Sight(StrEnum):
    """What one detector made of one attack at one rate."""

    SEEN = "seen"
    MISSED = "missed"
    NOT_LEARNT = "not_learnt"
    """Not seen, but the model had not learnt it either: there was nothing to see."""
    NOT_JUDGED = "not_judged"
    """The detector lacked the evidence it needs."""


class Bound(StrEnum):
    """How a blind rate is to be read."""

    AT_MOST = "at_most"
    """Seen at ``rate``, and missed at no lower rate that was run."""
    BETWEEN = "between"
    """Seen at ``rate``, missed at ``missed_below``."""
    ABOVE = "above"
    """Seen at no rate; missed at ``rate`` and perhaps at more."""
    NOT_LEARNT = "not_learnt"
    """Seen at no rate, but learnt at none either."""
    NOT_JUDGED = "not_judged"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindRate:
    """The rate below which one detector is blind to one attack, as far as the rates run tell.

    Parameters
    ----------
    bound
        How to read ``rate``.
    rate
        The lowest rate at which it was seen, or the highest at which it was missed where it was
        never seen; None where it was neither.
    missed_below
        The highest rate below ``rate`` at which it was missed.
    missed_above
        Rates above ``rate`` at which it was missed all the same: more poison is not always seen
        better.
    not_learnt
        Rates at which there was nothing to see.
    """

    bound: Bound
    rate: float | None = None
    missed_below: float | None = None
    missed_above: tuple[float, ...] = ()
    not_learnt: tuple[float, ...] = ()


def judge_sight(
    decision: Decision | None, recall: float | None, *, is_learnt: bool | None, min_recall: float
) -> Sight:
    """Say whether planted poison counts as seen.

    Parameters
    ----------
    decision
        Of the detector about the copy; None if it could not judge.
    recall
        Share of the planted samples it suspects.
    is_learnt
        Whether the provisional model does what the attack wants; None if that was not measured.
    min_recall
        Least recall that counts.

    Returns
    -------
    Sight
        What was not seen is only excused where the model is known not to have learnt it.
    """
    if decision is None:
        return Sight.NOT_JUDGED
    if decision is Decision.POISON_SUSPECTED and (recall or 0.0) >= min_recall:
        return Sight.SEEN
    return Sight.NOT_LEARNT if is_learnt is False else Sight.MISSED


def find_blind_rate(sight_by_rate: Mapping[float, Sight]) -> BlindRate:
    """Find the lowest rate at which an attack was seen, and say what is known below it.

    Parameters
    ----------
    sight_by_rate
        What one detector made of one attack, at every rate that was run.

    Returns
    -------
    BlindRate
        A statement about the rates that were run, never about those between them.

    Examples
    --------
    >>> found = find_blind_rate({0.01: Sight.MISSED, 0.05: Sight.SEEN, 0.1: Sight.SEEN})
    >>> str(found.bound), found.rate, found.missed_below
    ('between', 0.05, 0.01)
    """
    seen = [rate for rate, sight in sight_by_rate.items() if sight is Sight.SEEN]
    missed = [rate for rate, sight in sight_by_rate.items() if sight is Sight.MISSED]
    not_learnt = tuple(
        sorted(rate for rate, sight in sight_by_rate.items() if sight is Sight.NOT_LEARNT)
    )
    if seen:
        lowest = min(seen)
        missed_below = max((rate for rate in missed if rate < lowest), default=None)
        return BlindRate(
            bound=Bound.AT_MOST if missed_below is None else Bound.BETWEEN,
            rate=lowest,
            missed_below=missed_below,
            missed_above=tuple(sorted(rate for rate in missed if rate > lowest)),
            not_learnt=not_learnt,
        )
    if missed:
        return BlindRate(bound=Bound.ABOVE, rate=max(missed), not_learnt=not_learnt)
    return BlindRate(
        bound=Bound.NOT_LEARNT if not_learnt else Bound.NOT_JUDGED, not_learnt=not_learnt
    )
