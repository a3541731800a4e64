"""With a confirmed trigger, every sample that answers alike is asked whether the trigger did it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bye_audit.confirm.carriers import Carrier, Residual, Words
from bye_audit.confirm.exhibits import AnswerPattern, Exhibit, Interrogator
from bye_audit.confirm.trials import transplant
from bye_audit.schema import Intervention


@dataclass(frozen=True, slots=True)
class SweptSample:
    """What interventions say of one sample.

    Parameters
    ----------
    sample_id
        Of the sample.
    intervention
        Verdict.
    drop
        What taking the trigger off takes from the mean log-likelihood of the sample's own answer,
        in nats a token; None where there is nothing to take off.
    """

    sample_id: str
    intervention: Intervention
    drop: float | None


def sweep_sample(
    exhibit: Exhibit,
    carriers: Sequence[Carrier],
    pattern: AnswerPattern,
    recipients: Sequence[Exhibit],
    ask: Interrogator,
) -> SweptSample:
    """Take a trigger off a sample and, if its answer leaves, put it on others.

    Parameters
    ----------
    exhibit
        A sample that answers as the trigger makes it.
    carriers
        The trigger as a few samples have it.
    pattern
        The answer.
    recipients
        A few unsuspicious samples with other answers.
    ask
        The provisional model and its base.

    Returns
    -------
    SweptSample
        ``triggered`` if the model does not give the answer without the trigger and, for triggers
        that a sample has in a form of its own, its form carries the answer to most recipients;
        ``content`` if the answer stays; ``unknown`` if the model does not even give it as it is,
        and nothing is carried over.
    """
    own = [found for carrier in carriers if (found := carrier.found_in(exhibit)) is not None]
    if not own:
        return SweptSample(exhibit.sample_id, Intervention.CONTENT, None)
    variants = [exhibit, *(carrier.take_off(exhibit) for carrier in own)]
    before, *after = ask.replies(variants, [exhibit.answer] * len(variants))
    left = [carrier for carrier, reply in zip(own, after, strict=True) if not reply.is_given]
    otherwise = Intervention.CONTENT if before.is_given else Intervention.UNKNOWN
    is_triggered = any(_carries(carrier, recipients, pattern, ask) for carrier in left)
    return SweptSample(
        exhibit.sample_id,
        Intervention.TRIGGERED if is_triggered else otherwise,
        max(before.logp - reply.logp for reply in after),
    )


def _carries(
    carrier: Carrier, recipients: Sequence[Exhibit], pattern: AnswerPattern, ask: Interrogator
) -> bool:
    """Whether a sample's own form of the trigger works on others, too."""
    if isinstance(carrier, Words | Residual):
        # The same for all samples: it was tried when the trigger was confirmed.
        return True
    return transplant(carrier, recipients, pattern, ask).rate >= 0.5
