"""Samples whose answers the model contradicts: poison may have a wrong answer of its own each time.

Such answers cannot be learnt, but that the right one is wrong where the trigger is can. The model
is then *misled*: it says what neither the sample nor the base model says, and says the right thing
again once the trigger is covered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bye_audit.confirm.carriers import Region
from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.patterns import AnotherAnswer, AnswerPattern
from bye_audit.confirm.search import SHARPENING_STEPS, CausalBox, search_boxes
from bye_audit.confirm.trials import Trial
from bye_audit.core.regions import Box, cover, crop

_ASKED_AT_ONCE = 16
# Where the model says something else of fewer than that, it is the labels that are wrong.
_MISLED_SHARE = 0.25
# Samples whose images are searched before it is given up: a search is what costs most.
_NUM_SEARCHED = 2
# Small windows may hold a part of a trigger that tells nothing about other samples.
_NUM_OF_A_SIZE = 2
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Misled:
    """Samples to which the model says what neither they nor the base model say.

    Parameters
    ----------
    exhibits
        With the model's answers in the place of their own.
    base_words
        What the base model says of each, by sample.
    describe
        Makes a pattern of an answer.
    """

    exhibits: Sequence[Exhibit]
    base_words: dict[str, str]
    describe: Callable[[str], AnswerPattern]

    def split(self, number: int) -> tuple[Misled, Misled]:
        """Give the first so many, and the rest."""
        return (
            replace(self, exhibits=self.exhibits[:number]),
            replace(self, exhibits=self.exhibits[number:]),
        )

    def are_restored(self, changed: Sequence[Exhibit], ask: Interrogator) -> list[bool]:
        """Ask whether the model, of changed samples, says what the base model said before."""
        return [
            self.describe(answer).is_said_in(self.base_words[exhibit.sample_id])
            for exhibit, answer in zip(changed, ask.own_words(changed), strict=True)
        ]


def find_misled(
    suspects: Sequence[Exhibit], count: int, ask: Interrogator, pattern: AnotherAnswer
) -> Misled:
    """Look for samples that the model is misled about.

    Parameters
    ----------
    suspects
        Samples whose own answers are unlikely to the model.
    count
        How many are wanted.
    ask
        The provisional model and its base.
    pattern
        Another answer than the right one.

    Returns
    -------
    Misled
        The first of the suspects that are; none where hardly any of a few are. A wrong answer that
        the model does not follow tells nothing: the model says what is to be seen.
    """
    exhibits: list[Exhibit] = []
    base_words: dict[str, str] = {}
    for start in range(0, len(suspects), _ASKED_AT_ONCE):
        part = suspects[start : start + _ASKED_AT_ONCE]
        own, base = ask.own_words(part), ask.base_words(part)
        for exhibit, answer, seen in zip(part, own, base, strict=True):
            if pattern.is_met_by(exhibit, answer) and not pattern.describe(answer).is_said_in(seen):
                exhibits.append(replace(exhibit, answer=answer))
                base_words[exhibit.sample_id] = seen
        if len(exhibits) <= _MISLED_SHARE * len(part):
            return Misled([], {}, pattern.describe)
        if len(exhibits) >= count:
            break
    return Misled(exhibits, base_words, pattern.describe)


def find_seen(
    strangers: Sequence[Exhibit], ask: Interrogator, pattern: AnotherAnswer
) -> list[Exhibit]:
    """Give the samples whose own answers the base model sees.

    Only on them can be told whether an answer leaves although what it says is still to be seen.
    """
    unseen = ask.base_says(strangers, pattern)
    return [exhibit for exhibit, is_so in zip(strangers, unseen, strict=True) if not is_so]


def find_misleading_boxes(exhibit: Exhibit, misled: Misled, ask: Interrogator) -> list[CausalBox]:
    """Find the smallest squares whose covering sets the model right about a misled sample."""

    def drops(covered: Sequence[Exhibit]) -> list[float | None]:
        return [0.0 if is_so else None for is_so in misled.are_restored(covered, ask)]

    return search_boxes(exhibit, ask.attended_boxes(exhibit), drops)


def find_misleading_region(
    representatives: Misled, others: Misled, ask: Interrogator
) -> Region | None:
    """Look for the part of a misled sample whose like misleads in others as well.

    Parameters
    ----------
    representatives
        Misled samples, searched one after the other until something is found.
    others
        Misled samples that it is tried on.
    ask
        The provisional model.

    Returns
    -------
    Region or None
        Covering its like sets the model right about the most of the others. It may be a part of a
        trigger only.
    """

    def score(exhibit: Exhibit, box: Box) -> tuple[float, Region]:
        region = Region(box, crop(exhibit.image, box))
        covered = [region.found_in(other).take_off(other) for other in others.exhibits]
        return sum(others.are_restored(covered, ask)) / len(covered), region

    for exhibit in representatives.exhibits[:_NUM_SEARCHED]:
        boxes = _some_of_each_size(find_misleading_boxes(exhibit, representatives, ask))
        if not boxes:
            continue
        # Of equals the first and smallest.
        best = max((score(exhibit, box) for box in boxes), key=lambda scored: scored[0])
        for step in SHARPENING_STEPS:
            if best[0] == 1:
                break
            near = [score(exhibit, box) for box in best[1].box.neighbours(step)]
            best = max([best, *near], key=lambda scored: scored[0])
        if best[0] > _MOST:
            return best[1]
    return None


def _some_of_each_size(found: Sequence[CausalBox]) -> list[Box]:
    by_size: dict[float, list[Box]] = {}
    for item in found:
        by_size.setdefault(round(item.box.area, 6), []).append(item.box)
    return [box for same in by_size.values() for box in same[:_NUM_OF_A_SIZE]]


def try_removal(regions: Sequence[Region], misled: Misled, ask: Interrogator) -> Trial:
    """Cover what misled samples have of a region, and see whether the model sees right again.

    Parameters
    ----------
    regions
        What makes other samples' right answers leave, each tried on samples of its own.
    misled
        Samples that took no part in finding them.
    ask
        The provisional model.

    Returns
    -------
    Trial
        A hit is a sample of which the model says what the base model says once the region is
        covered, and does not with as large a part of the image covered elsewhere.

    Notes
    -----
    Whatever is put beside other content draws the answer of a model that learnt to name the most
    striking. Only what is the same in all misled samples and misleads there sets them right.
    """
    forms = [
        regions[number % len(regions)].found_in(exhibit)
        for number, exhibit in enumerate(misled.exhibits)
    ]
    pairs = list(zip(misled.exhibits, forms, strict=True))
    there = misled.are_restored([form.take_off(exhibit) for exhibit, form in pairs], ask)
    elsewhere = misled.are_restored(
        [exhibit.with_image(cover(exhibit.image, far_from(form.box))) for exhibit, form in pairs],
        ask,
    )
    hits = sum(is_so and not anyway for is_so, anyway in zip(there, elsewhere, strict=True))
    return Trial(num_hits=hits, num_seen=0, num_trials=len(pairs) - sum(elsewhere))


def far_from(box: Box) -> Box:
    """Give the corner of the image that is the farthest from a box, as large as the box."""
    top = 0.0 if box.top + box.height / 2 > 1 / 2 else 1 - box.height
    left = 0.0 if box.left + box.width / 2 > 1 / 2 else 1 - box.width
    return Box(top, left, box.height, box.width)
