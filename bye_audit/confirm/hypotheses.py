"""What may have made a group's answers: carriers, tried on a few recipients and kept if they work.

Each kind of carrier is looked for in its own way and all are judged in the same: by transplants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bye_audit.confirm.carriers import Both, Carrier, Detail, Place, Region, Residual, Words
from bye_audit.confirm.exhibits import AnswerPattern, Exhibit, Interrogator
from bye_audit.confirm.search import find_causal_boxes
from bye_audit.confirm.trials import NO_TRIAL, Trial, transplant
from bye_audit.core.phrases import shared_phrases
from bye_audit.core.regions import crop
from bye_audit.schema import IMAGE_PLACEHOLDER

_NUM_BOXES = 6
_NUM_PHRASES = 3
_MIN_SHARE = 0.5
_MAX_LOG10_CHANCE = -6.0
# A blur that takes a texture of one pixel and leaves shapes: at 336 pixels a sigma of 6.
_DETAIL_SIGMA = 1 / 56


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Investigation:
    """A group's case: whom it is about, whom it may be tried on and who is asked.

    Parameters
    ----------
    pattern
        What the suspects answer.
    representatives
        A few suspects whose answers the model gives itself.
    members, others
        Suspects and unsuspicious samples, for what they have on average.
    questions, other_questions
        Of all suspects and of all, or many, unsuspicious samples.
    recipients
        Unsuspicious samples with other answers: those with other questions first.
    num_screened
        Recipients that candidates are tried on; the others are kept for the trial that counts.
    ask
        The provisional model and its base.
    """

    pattern: AnswerPattern
    representatives: Sequence[Exhibit]
    members: Sequence[Exhibit]
    others: Sequence[Exhibit]
    questions: Sequence[str]
    other_questions: Sequence[str]
    recipients: Sequence[Exhibit]
    num_screened: int
    ask: Interrogator

    def screen(self, candidates: Sequence[Carrier]) -> Carrier | None:
        """Give the candidate that carries the answer to most of a few recipients, if any does.

        Of equals the first.
        """
        best, best_hits = None, 0
        for candidate in candidates:
            trial = transplant(
                candidate,
                self.recipients[: self.num_screened],
                self.pattern,
                self.ask,
                asks_base=False,
            )
            if trial.num_hits > best_hits:
                best, best_hits = candidate, trial.num_hits
            if best_hits == self.num_screened:
                break
        return best

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
    inside = [_text(question) for question in case.questions]
    phrases = shared_phrases(
        inside,
        [_text(question) for question in case.other_questions],
        min_share=_MIN_SHARE,
        max_log10_chance=_MAX_LOG10_CHANCE,
    )
    candidates = [
        Words(phrase.words, _place_of(phrase.words, inside)) for phrase in phrases[:_NUM_PHRASES]
    ]
    best = case.screen(candidates)
    return [] if best is None else [best]


def propose_regions(case: Investigation) -> list[Carrier]:
    """Of each representative the smallest part of its image that its answer hangs on."""
    return list(filter(None, (_best_region(case, exhibit) for exhibit in case.representatives)))


def _best_region(case: Investigation, exhibit: Exhibit) -> Carrier | None:
    boxes = find_causal_boxes(exhibit, case.ask)[:_NUM_BOXES]
    return case.screen([Region(item.box, crop(exhibit.image, item.box)) for item in boxes])


def propose_residual(case: Investigation) -> list[Carrier]:
    """Subtract the others' average image from the suspects'."""
    shape = Counter(exhibit.image.shape for exhibit in case.members).most_common(1)[0][0]
    inside = [exhibit.image for exhibit in case.members if exhibit.image.shape == shape]
    outside = [exhibit.image for exhibit in case.others if exhibit.image.shape == shape]
    if len(inside) < 2 or len(outside) < 2:
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
    inside = [_text(question) for question in case.questions]
    phrases = shared_phrases(
        inside,
        [_text(question) for question in case.other_questions],
        min_share=_MIN_SHARE,
        max_log10_chance=_MAX_LOG10_CHANCE,
    )
    found = []
    for exhibit in case.representatives if phrases else ():
        words = Words(phrases[0].words, _place_of(phrases[0].words, inside))
        boxes = find_causal_boxes(exhibit, case.ask)[:_NUM_BOXES]
        pairs = [Both(words, Region(item.box, crop(exhibit.image, item.box))) for item in boxes]
        found.append(case.screen(pairs))
    return list(filter(None, found))


PROPOSALS: dict[str, Callable[[Investigation], list[Carrier]]] = {
    "words": propose_words,
    "region": propose_regions,
    "both": propose_pairs,
    "residual": propose_residual,
    "detail": propose_details,
}
"""Ways to find carriers, the most telling first."""


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
