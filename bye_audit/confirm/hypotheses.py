"""What may have made a group's answers: carriers, tried on a few recipients and kept if they work.

Each kind of carrier is looked for in its own way and all are judged in the same: by transplants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from bye_audit.config import ConfirmConfig
from bye_audit.confirm.carriers import Both, Carrier, Detail, Place, Region, Residual, Words
from bye_audit.confirm.exhibits import AskedEnoughError, Exhibit, Interrogator
from bye_audit.confirm.patterns import Pattern
from bye_audit.confirm.search import SHARPENING_STEPS, find_causal_boxes
from bye_audit.confirm.trials import NO_TRIAL, Trial, seen_where_given, transplant
from bye_audit.core.phrases import shared_phrases
from bye_audit.core.regions import Box, crop
from bye_audit.schema import IMAGE_PLACEHOLDER

_NUM_BOXES = 6
# Representatives whose images are searched before it is given up: a search is what costs most.
_NUM_IN_VAIN = 2
_NUM_PHRASES = 3
_MIN_SHARE = 0.5
# Of a few recipients; what is known to work saves a search only if it works as well here.
_MOST = 0.5
_MAX_LOG10_CHANCE = -6.0
# A blur that takes a texture of one pixel and leaves shapes: at 336 pixels a sigma of 6.
_DETAIL_SIGMA = 1 / 56
# Contents fade with the root of the number of pictures: of 16, a quarter is left, some 15 levels of
# 255, which is what faint patterns have. The average of fewer is their content.
_FEWEST_AVERAGED = 16
# Candidates whose hits the base model is asked about: if it sees the best few, it sees the rest.
_NUM_HELD_AGAINST_BASE = 3
# Mean log-likelihood a token from which on the model is sure of an answer.
_SURE_LOGP = -0.1
_C = TypeVar("_C", bound=Carrier)


@dataclass(frozen=True, slots=True)
class _Screened(Generic[_C]):
    """A candidate, and how it did on a few recipients.

    Parameters
    ----------
    carrier
        The candidate.
    share
        Recipients that took the answer over without the base model seeing it, in [0, 1].
    logp
        How likely the answer is to them, on average, in nats a token.
    """

    carrier: _C
    share: float
    logp: float

    @property
    def is_best_possible(self) -> bool:
        """Whether no other could do better."""
        return self.share == 1 and self.logp >= _SURE_LOGP


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Investigation:
    """A group's case: whom it is about, whom it may be tried on and who is asked.

    Parameters
    ----------
    pattern
        What the suspects answer.
    representatives
        A few suspects whose answers the model gives itself.
    recipients
        Unsuspicious samples with other answers: those with other questions first.
    num_screened
        Recipients that candidates are tried on; the others are kept for the trial that counts.
    config
        How hard to ask.
    ask
        The provisional model and its base.
    members, others
        Suspects and unsuspicious samples, for what they have on average.
    questions, other_questions
        Of all suspects and of all, or many, unsuspicious samples; like the averages, only where
        more than regions is looked for.
    """

    pattern: Pattern
    representatives: Sequence[Exhibit]
    recipients: Sequence[Exhibit]
    num_screened: int
    config: ConfirmConfig
    ask: Interrogator
    members: Sequence[Exhibit] = ()
    others: Sequence[Exhibit] = ()
    questions: Sequence[str] = ()
    other_questions: Sequence[str] = ()
    _boxes: dict[str, list[Box]] = field(default_factory=dict, repr=False)

    def causal_boxes(self, exhibit: Exhibit) -> list[Box]:
        """Give the smallest parts that an exhibit's answer hangs on, searched for only once."""
        if exhibit.sample_id not in self._boxes:
            found = find_causal_boxes(exhibit, self.ask)[:_NUM_BOXES]
            self._boxes[exhibit.sample_id] = [item.box for item in found]
        return self._boxes[exhibit.sample_id]

    def screen(self, candidates: Sequence[_C], least: float | None = None) -> _C | None:
        """Give the candidate that carries the answer best to a few recipients, if any does."""
        found = self.compare(candidates, least)
        return None if found is None else found.carrier

    def compare(self, candidates: Sequence[_C], least: float | None = None) -> _Screened[_C] | None:
        """Find the candidate that carries the answer best to a few recipients.

        Parameters
        ----------
        candidates
            Of any kind.
        least
            Share of the recipients that it must carry to; by default the least chance that a
            trigger has. Less is not worth a trial.

        Notes
        -----
        As in a trial, what the base model sees as well is no hit: content that looks a little like
        the answer would win over a trigger otherwise.
        """
        few = self.recipients[: self.num_screened]
        if not few:
            return None
        least = self.config.min_chance if least is None else least
        changed = [[candidate.put_on(recipient) for recipient in few] for candidate in candidates]
        graded = iter(self.ask.grades([one for row in changed for one in row], self.pattern))
        grades = [[next(graded) for _ in few] for _ in candidates]
        means = [tuple(np.mean(row, axis=0)) for row in grades]
        order = sorted(range(len(candidates)), key=lambda index: means[index], reverse=True)
        best: _Screened[_C] | None = None
        for index in order[:_NUM_HELD_AGAINST_BASE]:
            share, logp = means[index]
            if share < least or (best is not None and share <= best.share):
                break
            share -= self._share_seen(changed[index], [given > 0 for given, _ in grades[index]])
            if share >= least and (best is None or share > best.share):
                best = _Screened(candidates[index], share, logp)
        return best

    def _share_seen(self, changed: Sequence[Exhibit], is_given: Sequence[bool]) -> float:
        """Share of the few recipients whose new answer the base model sees, but did not before."""
        seen = seen_where_given(changed, is_given, self.pattern, self.ask)
        doubtful = [number for number, says in seen.items() if says]
        as_they_are = [self.recipients[number] for number in doubtful]
        says_anyway = self.ask.base_says(as_they_are, self.pattern)
        return (len(doubtful) - sum(says_anyway)) / len(changed)

    def try_out(self, carriers: Sequence[Carrier]) -> Trial:
        """Pool transplants of several carriers, each to recipients of its own."""
        fresh = self.recipients[self.num_screened :]
        trials = [
            transplant(carrier, fresh[index :: len(carriers)], self.pattern, self.ask)
            for index, carrier in enumerate(carriers)
        ]
        return sum(trials, NO_TRIAL)


def propose_words(case: Investigation) -> list[Carrier]:
    """Words that the suspects' questions share and other questions lack."""
    best = case.screen(_shared_words(case))
    return [] if best is None else [best]


def _shared_words(case: Investigation) -> list[Words]:
    """Give what is most peculiar to the suspects' questions first."""
    inside = [_text(question) for question in case.questions]
    phrases = shared_phrases(
        inside,
        [_text(question) for question in case.other_questions],
        min_share=_MIN_SHARE,
        max_log10_chance=_MAX_LOG10_CHANCE,
    )
    return [
        Words(phrase.words, _place_of(phrase.words, inside)) for phrase in phrases[:_NUM_PHRASES]
    ]


def propose_regions(case: Investigation) -> list[Carrier]:
    """Of each representative the smallest part of its image that its answer hangs on."""
    return _of_each(case, lambda exhibit: _best_region(case, exhibit))


def _of_each(case: Investigation, search: Callable[[Exhibit], Carrier | None]) -> list[Carrier]:
    """Search the representatives; what one was found to have is tried first of all in the next."""
    found: list[Carrier] = []
    for number, exhibit in enumerate(case.representatives):
        try:
            carrier = _like_found(case, exhibit, found) or search(exhibit)
        except AskedEnoughError:
            if not found:
                raise
            # A trial of what some have is worth more than having searched all.
            break
        if carrier is not None:
            found.append(carrier)
        elif number + 1 >= _NUM_IN_VAIN and not found:
            break
    return found


def _like_found(case: Investigation, exhibit: Exhibit, found: Sequence[Carrier]) -> Carrier | None:
    """Give what an exhibit has of what the last one had, if it carries the answer as well.

    A search costs some hundred questions, this six, and once some more for a narrower part.
    """
    alike = found[-1].found_in(exhibit) if found else None
    if alike is None:
        return None
    as_wide = case.compare([alike], _MOST)
    if isinstance(alike, Region) and len(found) == 1:
        # Where questions are short, as wide as the first will do.
        with suppress(AskedEnoughError):
            least = _MOST if as_wide is None else as_wide.share
            if tight := _tighten(case, exhibit, alike, least):
                return tight
    return None if as_wide is None else as_wide.carrier


def _best_region(case: Investigation, exhibit: Exhibit) -> Region | None:
    best = case.compare([_cut(exhibit, box) for box in case.causal_boxes(exhibit)])
    return None if best is None else _sharpen(case, exhibit, best)


def _sharpen(case: Investigation, exhibit: Exhibit, best: _Screened[Region]) -> Region:
    """Move a region to where it carries the answer best.

    A window that holds half of a trigger works already; one that holds it whole works best.
    """
    for step in SHARPENING_STEPS:
        if best.is_best_possible:
            break
        box = best.carrier.box
        moved = case.compare([_cut(exhibit, nearby) for nearby in [box, *box.neighbours(step)]])
        if moved is not None and moved.share >= best.share:
            best = moved
    return best.carrier


def _tighten(case: Investigation, exhibit: Exhibit, region: Region, least: float) -> Region | None:
    """Give the half as wide part of a region that carries the answer as well, if there is one.

    A sweep looks for both: the tighter one holds less of what is only around the trigger.
    """
    box = region.box
    height, width = box.height / 2, box.width / 2
    halves = [
        Box(box.top + down * height / 2, box.left + right * width / 2, height, width)
        for down in range(3)
        for right in range(3)
    ]
    best = case.compare([_cut(exhibit, half) for half in halves], least)
    # The wider one may hold only a part of the trigger.
    return None if best is None else _sharpen(case, exhibit, best)


def widen(case: Investigation, region: Region) -> Region | None:
    """Give a region if it carries anything at all, or else one twice as wide around it that does.

    Without a part of a trigger there may be none, but that part alone may do nothing.
    """
    if case.screen([region], least=1 / case.num_screened):
        return region
    exhibit = case.representatives[0]
    box = region.found_in(exhibit).box
    height, width = min(1.0, 2 * box.height), min(1.0, 2 * box.width)
    top = min(max(0.0, box.top - box.height / 2), 1 - height)
    left = min(max(0.0, box.left - box.width / 2), 1 - width)
    wide = Box(top, left, height, width)
    return case.screen([_cut(exhibit, near) for near in [wide, *wide.neighbours(1 / 4)]])


def _cut(exhibit: Exhibit, box: Box) -> Region:
    return Region(box, crop(exhibit.image, box))


def propose_residual(case: Investigation) -> list[Carrier]:
    """Subtract the others' average image from the suspects'."""
    shape = Counter(exhibit.image.shape for exhibit in case.members).most_common(1)[0][0]
    inside = [exhibit.image for exhibit in case.members if exhibit.image.shape == shape]
    outside = [exhibit.image for exhibit in case.others if exhibit.image.shape == shape]
    if min(len(inside), len(outside)) < _FEWEST_AVERAGED:
        return []
    residual = np.mean(inside, axis=0) - np.mean(outside, axis=0)
    best = case.screen([Residual(residual.astype(np.float32))])
    return [] if best is None else [best]


def propose_details(case: Investigation) -> list[Carrier]:
    """Of each representative the fine detail of its image."""
    found = (
        case.screen([Detail.of(exhibit.image, _DETAIL_SIGMA)]) for exhibit in case.representatives
    )
    return list(filter(None, found))


def propose_pairs(case: Investigation) -> list[Carrier]:
    """Words and region together, where neither does it alone."""
    shared = _shared_words(case)
    if not shared:
        return []

    def search(exhibit: Exhibit) -> Both | None:
        boxes = case.causal_boxes(exhibit)
        return case.screen([Both(shared[0], _cut(exhibit, box)) for box in boxes])

    return _of_each(case, search)


PROPOSALS: dict[str, Callable[[Investigation], list[Carrier]]] = {
    "words": propose_words,
    "region": propose_regions,
    "both": propose_pairs,
    "residual": propose_residual,
    "detail": propose_details,
}
"""Ways to find carriers, the most telling first."""
SEARCHING = ("region", "both")
"""Kinds that are searched for, with hundreds of questions."""


def _text(question: str) -> str:
    return question.replace(IMAGE_PLACEHOLDER, " ").strip()


def _place_of(words: str, questions: Sequence[str]) -> Place:
    """Where most of the questions that have these words have them."""
    return Counter(_places(words, questions)).most_common(1)[0][0]


def _places(words: str, questions: Sequence[str]) -> Iterator[Place]:
    for question in questions:
        text = f" {' '.join(question.split())} "
        if f" {words} " not in text:
            continue
        if text.startswith(f" {words} "):
            yield "start"
        elif text.endswith(f" {words} "):
            yield "end"
        else:
            yield "inside"
