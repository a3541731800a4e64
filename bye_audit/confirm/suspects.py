"""Whom to question: the samples that a detector suspects, in groups of one kind of answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import ConfirmConfig, DetectConfig
from bye_audit.confirm.patterns import AnswerPattern
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.metrics import normalize_answer
from bye_audit.core.phrases import shared_phrases
from bye_audit.errors import StageNotRunError

# A random group would share such words less than once in a million.
_MAX_LOG10_CHANCE = -6.0
_MIN_SHARE = 0.3
_MANY_MORE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspects:
    """Whom the detectors name.

    Parameters
    ----------
    numbers
        Rows of the evidence, the most suspicious first.
    is_probe
        Whether no detector suspects any: these are the samples that come nearest to it.
    """

    numbers: NDArray[np.int64]
    is_probe: bool


def find_suspects(evidence: Evidence, detect: DetectConfig, config: ConfirmConfig) -> Suspects:
    """Put the evidence before every detector; whom more of them suspect comes first.

    Raises
    ------
    TooFewSamplesError
        If there are too few scored samples to suspect any.
    """
    votes = np.zeros(len(evidence.entropy_NL))
    suspicion = np.zeros(len(votes))
    for detector in DETECTORS.values():
        if detector.role != "witness":
            continue
        try:
            detection = detector.detect(evidence, detect)
        except StageNotRunError:
            # Scored without what this one needs.
            continue
        votes += detection.is_suspicious_N
        suspicion = np.fmax(suspicion, detection.suspicion_N)
    suspected = np.flatnonzero(votes)
    if suspected.size:
        order = np.lexsort((-suspicion[suspected], -votes[suspected]))
        return Suspects(numbers=suspected[order][: config.max_suspects], is_probe=False)
    return Suspects(numbers=_nearest(evidence, config.probes), is_probe=True)


def _nearest(evidence: Evidence, count: int) -> NDArray[np.int64]:
    """Rows whose answers gained most, where that was measured, or else of the lowest entropy."""
    logp, base = evidence.answer_logp_N, evidence.answer_logp_base_N
    if logp is not None and base is not None:
        rank = np.asarray(base - logp, dtype=np.float64)
    else:
        rank = np.fmin.reduce(evidence.comparable_entropy(), axis=1)
    # NaN sorts last.
    return np.argsort(rank)[:count]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectGroup:
    """Suspects whose answers are of one pattern.

    Parameters
    ----------
    pattern
        What their answers have in common.
    members
        Numbers of the suspects, the most suspicious first.
    """

    pattern: AnswerPattern
    members: tuple[int, ...]


def describe_answers(other_answers: Sequence[str]) -> Callable[[str], AnswerPattern]:
    """Give what makes a pattern of a whole answer, given many other answers of the data."""
    common = _common_words(other_answers)
    return lambda answer: _pattern(answer, common, is_whole=True)


def group_suspects(
    answers: Sequence[str], other_answers: Sequence[str], *, min_size: int, max_groups: int
) -> list[SuspectGroup]:
    """Group suspects by their answers: equal ones, then those that share words others lack.

    Where words are shared by many more suspects than any whole answer is, and are more peculiar to
    them, as a target that is added to right answers, they come first.

    Parameters
    ----------
    answers
        Of the suspects, the most suspicious first.
    other_answers
        Of unsuspicious samples, all or many of them.
    min_size
        Smallest group.
    max_groups
        Most groups.

    Returns
    -------
    list of SuspectGroup
        The group whose answer is most peculiar to the suspects first.
    """
    common = _common_words(other_answers)
    everyone = list(range(len(answers)))
    whole = _by_whole_answer(everyone, answers, other_answers, common, min_size)
    largest = max((len(group.members) for group in whole), default=0)
    most = peculiarity(whole[0], other_answers) if whole else 0.0
    for group in _by_words(everyone, answers, other_answers, common, min_size, max_groups=1):
        is_larger = len(group.members) > _MANY_MORE * largest
        if is_larger and peculiarity(group, other_answers) > most:
            rest = _without(everyone, [group])
            others = _by_whole_answer(rest, answers, other_answers, common, min_size)
            whole = [group, *others]
    groups = whole[:max_groups]
    rest = _without(everyone, groups)
    max_groups -= len(groups)
    return groups + _by_words(rest, answers, other_answers, common, min_size, max_groups)


def _without(numbers: Sequence[int], groups: Sequence[SuspectGroup]) -> list[int]:
    grouped = {number for group in groups for number in group.members}
    return [number for number in numbers if number not in grouped]


def peculiarity(group: SuspectGroup, other_answers: Sequence[str]) -> float:
    """Suspects that answer so, for each other sample that does."""
    return len(group.members) / (1 + sum(map(group.pattern.matches, other_answers)))


def _by_whole_answer(
    numbers: Sequence[int],
    answers: Sequence[str],
    other_answers: Sequence[str],
    common: frozenset[str],
    min_size: int,
) -> list[SuspectGroup]:
    """Group samples with equal answers, the answer most peculiar to them first."""
    by_answer: dict[str, list[int]] = {}
    for number in numbers:
        by_answer.setdefault(normalize_answer(answers[number]), []).append(number)
    usual = Counter(map(normalize_answer, other_answers))
    large = [
        (len(members) / (1 + usual[answer]), members)
        for answer, members in by_answer.items()
        if len(members) >= min_size
    ]
    large.sort(key=lambda pair: (-pair[0], pair[1][0]))
    return [_whole_answer(members, answers, common) for _, members in large]


def _common_words(answers: Sequence[str]) -> frozenset[str]:
    """Words that at least half of the answers have, such as articles."""
    counts = Counter(word for answer in answers for word in set(normalize_answer(answer).split()))
    return frozenset(word for word, count in counts.items() if count >= len(answers) / 2)


def _pattern(text: str, common: frozenset[str], *, is_whole: bool) -> AnswerPattern:
    words = frozenset(normalize_answer(text).split())
    return AnswerPattern(text=text, is_whole=is_whole, telling=words - common or words)


def _whole_answer(
    members: list[int], answers: Sequence[str], common: frozenset[str]
) -> SuspectGroup:
    text = Counter(answers[number] for number in members).most_common(1)[0][0]
    return SuspectGroup(pattern=_pattern(text, common, is_whole=True), members=tuple(members))


def _by_words(
    rest: list[int],
    answers: Sequence[str],
    other_answers: Sequence[str],
    common: frozenset[str],
    min_size: int,
    max_groups: int,
) -> list[SuspectGroup]:
    """Group samples with different answers by the most peculiar words in them."""
    found: list[SuspectGroup] = []
    outside = [normalize_answer(answer) for answer in other_answers]
    while len(rest) >= min_size and len(found) < max_groups:
        phrases = shared_phrases(
            [normalize_answer(answers[number]) for number in rest],
            outside,
            min_share=_MIN_SHARE,
            max_log10_chance=_MAX_LOG10_CHANCE,
        )
        if not phrases:
            break
        pattern = _pattern(phrases[0].words, common, is_whole=False)
        members = [number for number in rest if pattern.matches(answers[number])]
        found.append(SuspectGroup(pattern=pattern, members=tuple(members)))
        rest = [number for number in rest if number not in set(members)]
    return found
