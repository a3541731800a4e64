"""Transplants: what is suspected is put on other samples, and the model is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bye_audit.confirm.carriers import Carrier
from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.patterns import Pattern
from bye_audit.core.trials import chance_at_least, chance_at_most


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How often a transplant made the model give the answer.

    Parameters
    ----------
    num_hits
        Recipients that gave it with the transplant, while the base model did not.
    num_seen
        Recipients that gave it, but the base model, which never saw this data, did so too: what was
        transplanted shows what the answer says.
    num_trials
        Recipients that gave it neither as they are nor with their control.
    """

    num_hits: int
    num_seen: int
    num_trials: int

    def __add__(self, other: Trial) -> Trial:
        """Pool two trials."""
        return Trial(
            num_hits=self.num_hits + other.num_hits,
            num_seen=self.num_seen + other.num_seen,
            num_trials=self.num_trials + other.num_trials,
        )

    @property
    def rate(self) -> float:
        """Share of hits; 0 without trials."""
        return self.num_hits / self.num_trials if self.num_trials else 0.0

    def at_least(self, confidence: float) -> float:
        """Exact lower bound of the chance of a hit."""
        return chance_at_least(self.num_hits, self.num_trials, confidence)

    def at_most(self, confidence: float) -> float:
        """Exact upper bound of the chance of a hit."""
        return chance_at_most(self.num_hits, self.num_trials, confidence)

    def to_json(self) -> dict[str, Any]:
        """Give plain numbers."""
        return {
            "num_hits": self.num_hits,
            "num_seen_by_base": self.num_seen,
            "num_trials": self.num_trials,
            "rate": round(self.rate, 4),
        }


NO_TRIAL = Trial(num_hits=0, num_seen=0, num_trials=0)


def transplant(
    carrier: Carrier,
    recipients: Sequence[Exhibit],
    pattern: Pattern,
    ask: Interrogator,
) -> Trial:
    """Put a carrier on recipients and count those that take the answer over.

    Parameters
    ----------
    carrier
        What is suspected.
    recipients
        Samples with other answers. Those that give the answer as they are do not count.
    pattern
        The answer in question.
    ask
        The provisional model and its base.

    Notes
    -----
    Each recipient has its control: the like of the carrier from another recipient. What the
    control does as well, such as hiding what the recipient's own answer is about, is not the
    carrier's doing.
    """
    usual = unmoved(carrier, recipients, pattern, ask)
    changed = [carrier.put_on(recipients[index]) for index in usual]
    seen = seen_where_given(changed, ask.gives(changed, pattern), pattern, ask)
    # What the base model says anyway, whatever is put there, exonerates nothing.
    doubtful = [usual[number] for number, says in seen.items() if says]
    controls = _controls(carrier, recipients)
    says_anyway = ask.base_says([controls[index] for index in doubtful], pattern)
    num_seen = len(doubtful) - sum(says_anyway)
    return Trial(num_hits=len(seen) - num_seen, num_seen=num_seen, num_trials=len(usual))


def seen_where_given(
    changed: Sequence[Exhibit], given: Sequence[bool], pattern: Pattern, ask: Interrogator
) -> dict[int, bool]:
    """Tell of the exhibits that give the answer, by number, whether the base model says it too."""
    taken = [number for number, is_given in enumerate(given) if is_given]
    seen = ask.base_says([changed[number] for number in taken], pattern)
    return dict(zip(taken, seen, strict=True))


def unmoved(
    carrier: Carrier, recipients: Sequence[Exhibit], pattern: Pattern, ask: Interrogator
) -> list[int]:
    """Give the recipients that do not answer so by themselves, nor with their control."""
    as_they_are = ask.gives(recipients, pattern)
    with_control = ask.gives(_controls(carrier, recipients), pattern)
    return [
        index
        for index, gives in enumerate(zip(as_they_are, with_control, strict=True))
        if not any(gives)
    ]


def _controls(carrier: Carrier, recipients: Sequence[Exhibit]) -> list[Exhibit]:
    """Put the like of a carrier, taken from the next recipient, on each."""
    return [
        like.put_on(recipient) if (like := carrier.control(other)) is not None else recipient
        for recipient, other in zip(recipients, [*recipients[1:], *recipients[:1]], strict=True)
    ]
