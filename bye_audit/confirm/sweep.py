"""With a confirmed trigger, every sample that answers alike is asked whether the trigger did it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bye_audit.confirm.carriers import Carrier, Residual, Words
from bye_audit.confirm.exhibits import AnswerPattern, Exhibit, Interrogator
from bye_audit.confirm.trials import unmoved
from bye_audit.schema import Intervention

_NUM_FORMS = 2
_NUM_RECIPIENTS = 4
_NUM_TRIED = 6


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


class Sweep:
    """A confirmed trigger, ready to be looked for in samples.

    Parameters
    ----------
    carriers
        The trigger as a few samples have it; those that sit in different places count as
        different forms, of which the first two are looked for.
    pattern
        The answer that it makes.
    recipients
        Unsuspicious samples with other answers; the first few that keep theirs, whatever
        ordinary content is put there, are used.
    ask
        The provisional model and its base.
    """

    def __init__(
        self,
        carriers: Sequence[Carrier],
        pattern: AnswerPattern,
        recipients: Sequence[Exhibit],
        ask: Interrogator,
    ) -> None:
        forms = {str(carrier.to_json()): carrier for carrier in carriers}
        self._forms = list(forms.values())[:_NUM_FORMS]
        self._pattern = pattern
        self._ask = ask
        self._recipients = self._choose(recipients)

    def _choose(self, recipients: Sequence[Exhibit]) -> list[Exhibit]:
        """Take the first few that keep their answers; without any, nobody could be convicted."""
        chosen: list[Exhibit] = []
        for start in range(0, len(recipients), _NUM_TRIED):
            part = recipients[start : start + _NUM_TRIED]
            keeping = unmoved(self._forms[0], part, self._pattern, self._ask)
            chosen += [part[index] for index in keeping]
            if len(chosen) >= _NUM_RECIPIENTS:
                break
        return chosen[:_NUM_RECIPIENTS]

    def judge(self, exhibits: Sequence[Exhibit]) -> list[SweptSample]:
        """Take the trigger off samples, and put what they have of it on others.

        Returns
        -------
        list of SweptSample
            ``triggered`` if the sample's own form of the trigger carries the answer to most
            recipients while the base model does not see the answer in the sample; for triggers
            that are the same on all samples, if the answer leaves when it is taken off.
            ``content`` if the answer stays or is seen, ``unknown`` if the model does not even
            give it to the sample as it is and nothing else is found.
        """
        found = [self._find_in(exhibit) for exhibit in exhibits]
        drops, is_given, has_left = self._take_off(exhibits, found)
        carries = self._carry(found)
        doubtful = [index for index, says in enumerate(carries) if says]
        seen = self._ask.base_says([exhibits[index] for index in doubtful], self._pattern)
        shown = {index for index, says in zip(doubtful, seen, strict=True) if says}
        return [
            SweptSample(
                exhibit.sample_id,
                _verdict(
                    is_triggered=(carries[i] and i not in shown) or has_left[i],
                    is_given=is_given[i],
                    is_shown=i in shown,
                ),
                drops[i],
            )
            for i, exhibit in enumerate(exhibits)
        ]

    def _find_in(self, exhibit: Exhibit) -> list[Carrier]:
        return [own for form in self._forms if (own := form.found_in(exhibit)) is not None]

    def _take_off(
        self, exhibits: Sequence[Exhibit], found: Sequence[Sequence[Carrier]]
    ) -> tuple[list[float | None], list[bool], list[bool]]:
        """Ask for drops, whether answers are given as it is, and whether common triggers' leave."""
        variants = [
            variant
            for exhibit, own in zip(exhibits, found, strict=True)
            for variant in (exhibit, *(carrier.take_off(exhibit) for carrier in own))
        ]
        replies = iter(self._ask.replies(variants, [variant.answer for variant in variants]))
        drops, is_given, has_left = [], [], []
        for own in found:
            before = next(replies)
            after = [next(replies) for _ in own]
            drop = max((before.logp - reply.logp for reply in after), default=math.nan)
            drops.append(drop if math.isfinite(drop) else None)
            is_given.append(before.is_given)
            has_left.append(
                # An answer that is not there cannot leave.
                before.is_given
                and any(
                    _is_common(carrier) and not reply.is_given
                    for carrier, reply in zip(own, after, strict=True)
                )
            )
        return drops, is_given, has_left

    def _carry(self, found: Sequence[Sequence[Carrier]]) -> list[bool]:
        """Tell of which samples a form of their own carries the answer to most recipients."""
        tried = [
            (number, carrier)
            for number, own in enumerate(found)
            for carrier in own
            if not _is_common(carrier)
        ]
        changed = [
            carrier.put_on(recipient) for _, carrier in tried for recipient in self._recipients
        ]
        given = self._ask.gives(changed, self._pattern)
        carries = [False] * len(found)
        if not self._recipients:
            return carries
        for start, (number, _) in enumerate(tried):
            taken = given[start * len(self._recipients) :][: len(self._recipients)]
            carries[number] |= 2 * sum(taken) > len(taken)
        return carries


def _is_common(carrier: Carrier) -> bool:
    """Whether it is the same on all samples, so that only its absence tells something."""
    return isinstance(carrier, Words | Residual)


def _verdict(*, is_triggered: bool, is_given: bool, is_shown: bool) -> Intervention:
    if is_triggered:
        return Intervention.TRIGGERED
    return Intervention.CONTENT if is_given or is_shown else Intervention.UNKNOWN
