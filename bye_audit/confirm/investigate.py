"""One group of suspects, from hypothesis to finding."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bye_audit.config import ConfirmConfig
from bye_audit.confirm.carriers import Carrier
from bye_audit.confirm.contradicted import Misled, find_misleading_region, try_removal
from bye_audit.confirm.exhibits import AskedEnoughError, Exhibit, Interrogator
from bye_audit.confirm.hypotheses import PROPOSALS, SEARCHING, Investigation, widen
from bye_audit.confirm.patterns import Pattern
from bye_audit.confirm.trials import Trial
from bye_audit.schema import Finding

NUM_SCREENED = 6
"""Recipients that candidates are tried on; they take no part in the trial that counts."""
ASKED_OF_RECIPIENT = 4
"""As it is, with the control, with the trigger, and the base model: what a trial asks at most."""
# A target that is one of two usual answers is seen in half of the poisoned samples by chance: in
# more than this share of 24 of them once in 300 groups.
_SHOWN_SHARE = 0.75
_NUM_GLANCED_AT = 8
# Of each of four representatives a candidate, and one of them all, with the base model's opinion.
_ASKED_BY_QUICK_KINDS = 2 * 5 * NUM_SCREENED


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupFinding:
    """What became of a group.

    Parameters
    ----------
    finding
        Confirmed, unconfirmed, shown, or not learnt: the model does not give the suspects' answers,
        so that it cannot be asked about them.
    carriers
        What carries the answer, as a few representatives have it; empty if nothing does.
    trial
        The transplants that counted, of the best kind of carrier.
    chance_at_least
        Exact lower bound of the chance that a transplant carries the answer over.
    tried
        Every kind of carrier that was tried, with its trial.
    """

    finding: Finding
    carriers: Sequence[Carrier] = ()
    trial: Trial | None = None
    chance_at_least: float = 0.0
    tried: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Describe it with plain values."""
        return {
            "chance_at_least": round(self.chance_at_least, 4),
            "carriers": [carrier.to_json() for carrier in self.carriers],
            "trial": None if self.trial is None else self.trial.to_json(),
            "tried": self.tried,
        }

    def crop_png(self) -> bytes | None:
        """Give a picture of the smallest part of an image that was carried over, if any was."""
        from PIL import Image

        regions = [region for carrier in self.carriers for region in carrier.regions]
        if not regions:
            return None
        buffer = io.BytesIO()
        smallest = min(regions, key=lambda region: region.box.area)
        Image.fromarray(smallest.content).save(buffer, "PNG")
        return buffer.getvalue()


def are_shown(suspects: Sequence[Exhibit], pattern: Pattern, ask: Interrogator) -> bool:
    """Tell whether the base model sees the answer in most suspects, so that content explains it.

    Then none of them is carried anywhere: content that the base model knows where it belongs may
    escape it on a recipient that shows something else as well.
    """
    few, rest = suspects[:_NUM_GLANCED_AT], suspects[_NUM_GLANCED_AT:]
    num_seen = sum(ask.base_says(few, pattern))
    if num_seen <= len(few) // 4:
        # More than three in four of all would hardly leave so few among these.
        return False
    num_seen += sum(ask.base_says(rest, pattern))
    return num_seen > _SHOWN_SHARE * len(suspects)


def find_representatives(
    suspects: Sequence[Exhibit], count: int, ask: Interrogator
) -> list[Exhibit]:
    """Give the first suspects whose answers are the model's own."""
    replies = ask.replies(suspects, [exhibit.answer for exhibit in suspects])
    pairs = zip(suspects, replies, strict=True)
    return [exhibit for exhibit, reply in pairs if reply.is_given][:count]


def investigate(case: Investigation, confidence: float) -> GroupFinding:
    """Try one kind of carrier after the other until one is confirmed.

    Parameters
    ----------
    case
        The group.
    confidence
        Of the bound on the chance of success, for this group.

    Returns
    -------
    GroupFinding
        Of the first kind that is confirmed, or else of the one that came nearest.

    Raises
    ------
    AskedEnoughError
        If what may be asked was used up before everything was tried, and nothing is confirmed.
    """
    if not case.representatives:
        return GroupFinding(finding=Finding.NOT_LEARNT)
    best = GroupFinding(finding=Finding.UNCONFIRMED)
    tried: dict[str, dict[str, Any]] = {}
    given_up: AskedEnoughError | None = None
    for kind, propose in PROPOSALS.items():
        try:
            with case.ask.keep_back(_asked_after(kind, case.config)):
                carriers = propose(case)
        except AskedEnoughError as error:
            # Another kind of trigger may be found with a few questions.
            given_up = error
            continue
        if not carriers:
            continue
        trial = case.try_out(carriers)
        bound = trial.at_least(confidence)
        tried[kind] = trial.to_json()
        if bound >= best.chance_at_least:
            is_confirmed = bound >= case.config.min_chance
            best = GroupFinding(
                finding=Finding.CONFIRMED if is_confirmed else Finding.UNCONFIRMED,
                carriers=carriers,
                trial=trial,
                chance_at_least=bound,
            )
        if best.finding is Finding.CONFIRMED:
            break
    if given_up is not None and best.finding is not Finding.CONFIRMED:
        raise given_up
    return replace(best, tried=tried)


def investigate_misled(case: Investigation, misled: Misled, confidence: float) -> GroupFinding:
    """Look for a part of the image that misleads the model, there and on other samples.

    Parameters
    ----------
    case
        The group, with representatives of the misled.
    misled
        Samples that the model is misled about; the first of them are the representatives.
    confidence
        Of each bound.

    Returns
    -------
    GroupFinding
        Confirmed if what is carried over makes right answers leave and, where it is from, covering
        it brings them back; the lesser of both bounds is given.
    """
    searched, rest = misled.split(len(case.representatives))
    few, fresh = rest.split(NUM_SCREENED)
    can_be_tried = fresh.exhibits and len(case.recipients) > case.num_screened
    part = find_misleading_region(searched, few, case.ask) if can_be_tried else None
    found = widen(case, part) if part else None
    if found is None:
        return GroupFinding(finding=Finding.UNCONFIRMED)
    carriers = [found.found_in(exhibit) for exhibit in case.representatives]
    trial, removal = case.try_out(carriers), try_removal(carriers, fresh, case.ask)
    bound = min(trial.at_least(confidence), removal.at_least(confidence))
    is_confirmed = bound >= case.config.min_chance
    return GroupFinding(
        finding=Finding.CONFIRMED if is_confirmed else Finding.UNCONFIRMED,
        carriers=carriers,
        trial=trial,
        chance_at_least=bound,
        tried={"region": trial.to_json(), "removal": removal.to_json()},
    )


def _asked_after(kind: str, config: ConfirmConfig) -> int:
    """Count the questions that have to be left when carriers of a kind have been found."""
    trial = ASKED_OF_RECIPIENT * config.recipients
    return trial + (_ASKED_BY_QUICK_KINDS if kind in SEARCHING else 0)
