"""With a confirmed trigger, every sample that answers alike is asked whether the trigger did it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bye_audit.confirm.carriers import Carrier, Residual, Words
from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.patterns import AnotherAnswer, AnswerPattern, Pattern
from bye_audit.confirm.trials import seen_where_given, unmoved
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
        Verdict; None: it was asked, and nothing was learnt that would speak for or against it.
    drop
        What taking the trigger off takes from the mean log-likelihood of the sample's own answer,
        in nats a token; None where there is nothing to take off.
    """

    sample_id: str
    intervention: Intervention | None
    drop: float | None


@dataclass(frozen=True, slots=True)
class _Removal:
    """What taking a trigger off a sample does to the sample's own answer."""

    is_given: bool
    """Whether the model gives it to the sample as it is."""
    drop: float | None
    left: list[Carrier]
    """Forms of the trigger without which it does not."""


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
        ordinary content is put there, and leave them with the trigger, are used.
    ask
        The provisional model and its base.
    """

    def __init__(
        self,
        carriers: Sequence[Carrier],
        pattern: Pattern,
        recipients: Sequence[Exhibit],
        ask: Interrogator,
    ) -> None:
        forms = {str(carrier.to_json()): carrier for carrier in carriers}
        self._forms = list(forms.values())[:_NUM_FORMS]
        self._pattern = pattern
        self._ask = ask
        self._recipients = self._choose(recipients)

    def _choose(self, recipients: Sequence[Exhibit]) -> list[Exhibit]:
        """Take the first few that the trigger works on; without any, nobody could be convicted."""
        chosen: list[Exhibit] = []
        for start in range(0, len(recipients), _NUM_TRIED):
            part = recipients[start : start + _NUM_TRIED]
            keeping = unmoved(self._forms[0], part, self._pattern, self._ask)
            chosen += self._moved([part[index] for index in keeping])
            if len(chosen) >= _NUM_RECIPIENTS:
                break
        return chosen[:_NUM_RECIPIENTS]

    def _moved(self, recipients: Sequence[Exhibit]) -> list[Exhibit]:
        """Give those that take the answer over, where the base model does not see it."""
        changed = [self._forms[0].put_on(recipient) for recipient in recipients]
        given = self._ask.gives(changed, self._pattern)
        seen = seen_where_given(changed, given, self._pattern, self._ask)
        return [recipients[number] for number, says in seen.items() if not says]

    def judge(self, exhibits: Sequence[Exhibit]) -> list[SweptSample]:
        """Take the trigger off samples, and put what they have of it on others.

        Returns
        -------
        list of SweptSample
            ``triggered`` if the sample's own form of the trigger carries the answer to most
            recipients while the base model does not see the answer in the sample, or sees it in
            at most half of these recipients although the answer leaves without that form; for
            triggers that are the same on all samples, if the answer leaves when it is taken off.
            ``content`` if the base model sees the answer, ``unknown`` if nothing is found and it
            does not: another form of the trigger, or another trigger, may do what this one does.
        """
        found = [self.find_in(exhibit) for exhibit in exhibits]
        removals = self._take_off(exhibits, found)
        carries = self._carry(found)
        # Of what is the same on all samples only its absence tells something.
        convicted = {i for i, removal in enumerate(removals) if any(map(_is_common, removal.left))}
        doubtful = [index for index in range(len(exhibits)) if index not in convicted]
        seen = self._ask.base_says([exhibits[index] for index in doubtful], self._pattern)
        shown = {index for index, says in zip(doubtful, seen, strict=True) if says}
        # What the base model sees may be beside the trigger, or look like it from afar.
        shown -= {
            i for i in shown if carries[i] and any(map(self._carries_unseen, removals[i].left))
        }
        convicted |= {i for i, says in enumerate(carries) if says} - shown
        return [
            SweptSample(exhibit.sample_id, _verdict(i in convicted, i in shown), removals[i].drop)
            for i, exhibit in enumerate(exhibits)
        ]

    def judge_lookalikes(
        self, exhibits: Sequence[Exhibit], describe: Callable[[str], AnswerPattern]
    ) -> list[SweptSample]:
        """Ask about samples that look as if they had the trigger but answer something else.

        Parameters
        ----------
        exhibits
            Samples whose answers are not the trigger's.
        describe
            Makes a pattern of an answer.

        Returns
        -------
        list of SweptSample
            ``triggered`` if the sample's own answer leaves when the trigger is taken off, what is
            taken off carries the trigger's answer to most recipients, and the base model does not
            see the sample's own answer in it. ``unknown`` if the same holds, but the sample's own
            answer is not the model's, so that it could not leave. Else None: that a trigger does
            not make this answer says nothing against another.
        """
        found = [self.find_in(exhibit) for exhibit in exhibits]
        removals = self._take_off(exhibits, found)
        # Whose answer stays needs no further questions.
        working = [
            removal.left if removal.is_given else own
            for own, removal in zip(found, removals, strict=True)
        ]
        carries = self._carry(working)
        return [
            SweptSample(
                exhibit.sample_id,
                Intervention.TRIGGERED if removal.is_given else Intervention.UNKNOWN,
                removal.drop,
            )
            if says and not self._ask.base_says([exhibit], describe(exhibit.answer))[0]
            else SweptSample(exhibit.sample_id, None, removal.drop)
            for exhibit, removal, says in zip(exhibits, removals, carries, strict=True)
        ]

    def judge_contradicted(
        self, exhibits: Sequence[Exhibit], pattern: AnotherAnswer
    ) -> list[SweptSample]:
        """Ask about samples whose own answers the model hardly gives.

        Returns
        -------
        list of SweptSample
            ``triggered`` if the base model does not see the sample's own answer in it, and what the
            sample has of the trigger makes most recipients leave theirs, at most half of them for
            what the base model sees in the sample: content that is put on others speaks for itself.
            Else None: wrong answers have other reasons too.
        """
        convicted = [
            exhibit
            for exhibit, seen in zip(exhibits, self._ask.base_words(exhibits), strict=True)
            if not pattern.describe(exhibit.answer).is_quoted_in(seen)
            and any(self._misleads(carrier, seen, pattern) for carrier in self.find_in(exhibit))
        ]
        return [SweptSample(one.sample_id, Intervention.TRIGGERED, None) for one in convicted]

    def _misleads(self, carrier: Carrier, seen: str, pattern: AnotherAnswer) -> bool:
        """Whether most recipients leave their answers, and not for what is seen in the donor."""
        changed = [carrier.put_on(recipient) for recipient in self._recipients]
        pairs = zip(self._recipients, self._ask.own_words(changed), strict=True)
        taken = [answer for recipient, answer in pairs if pattern.is_met_by(recipient, answer)]
        of_donor = [pattern.describe(answer).is_quoted_in(seen) for answer in taken]
        return 2 * len(taken) > len(changed) and 2 * sum(of_donor) <= len(taken)

    def find_in(self, exhibit: Exhibit) -> list[Carrier]:
        """Give the forms of the trigger as a sample would have them."""
        return [own for form in self._forms if (own := form.found_in(exhibit)) is not None]

    def _take_off(
        self, exhibits: Sequence[Exhibit], found: Sequence[Sequence[Carrier]]
    ) -> list[_Removal]:
        """Ask about each sample's own answer as it is, and without each form of the trigger."""
        variants = [
            variant
            for exhibit, own in zip(exhibits, found, strict=True)
            for variant in (exhibit, *(carrier.take_off(exhibit) for carrier in own))
        ]
        replies = iter(self._ask.replies(variants, [variant.answer for variant in variants]))
        removals = []
        for own in found:
            before = next(replies)
            after = [next(replies) for _ in own]
            drop = max((before.logp - reply.logp for reply in after), default=math.nan)
            left = [
                carrier
                for carrier, reply in zip(own, after, strict=True)
                # An answer that is not there cannot leave.
                if before.is_given and not reply.is_given
            ]
            removals.append(_Removal(before.is_given, drop if math.isfinite(drop) else None, left))
        return removals

    def _carry(self, found: Sequence[Sequence[Carrier]]) -> list[bool]:
        """Tell of which samples a form of their own carries the answer to most recipients."""
        carries = [False] * len(found)
        for place in range(_NUM_FORMS):
            tried = [
                number
                for number, own in enumerate(found)
                # One form is enough.
                if not carries[number] and place < len(own) and not _is_common(own[place])
            ]
            says = self._carry_to_most([found[number][place] for number in tried])
            for number, is_so in zip(tried, says, strict=True):
                carries[number] = is_so
        return carries

    def _carry_to_most(self, carriers: Sequence[Carrier]) -> list[bool]:
        """Tell which carriers take the answer to most recipients; ask no more than that needs."""
        most = len(self._recipients) // 2 + 1
        first, rest = self._recipients[:most], self._recipients[most:]
        hits = self._count_hits(carriers, first)
        open_ones = [i for i, count in enumerate(hits) if count < most <= count + len(rest)]
        more = self._count_hits([carriers[i] for i in open_ones], rest)
        for i, count in zip(open_ones, more, strict=True):
            hits[i] += count
        return [count >= most for count in hits]

    def _count_hits(self, carriers: Sequence[Carrier], recipients: Sequence[Exhibit]) -> list[int]:
        """Count for each carrier the recipients that take the answer over."""
        changed = [carrier.put_on(recipient) for carrier in carriers for recipient in recipients]
        given = iter(self._ask.gives(changed, self._pattern))
        return [sum(next(given) for _ in recipients) for _ in carriers]

    def _carries_unseen(self, carrier: Carrier) -> bool:
        """Whether most recipients take the answer over, at most half of them for what is seen.

        Content that draws the provisional model's answer is seen by the base model as well.
        """
        changed = [carrier.put_on(recipient) for recipient in self._recipients]
        given = self._ask.gives(changed, self._pattern)
        seen = seen_where_given(changed, given, self._pattern, self._ask)
        return 2 * len(seen) > len(changed) and 2 * sum(seen.values()) <= len(seen)


def _is_common(carrier: Carrier) -> bool:
    """Whether it is the same on all samples, so that only its absence tells something."""
    return isinstance(carrier, Words | Residual)


def _verdict(is_convicted: bool, is_shown: bool) -> Intervention:
    if is_convicted:
        return Intervention.TRIGGERED
    return Intervention.CONTENT if is_shown else Intervention.UNKNOWN
