"""Words that a group of texts shares and the other texts do not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_PHRASE_WORDS = 8
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A run of words and how often it is found.

    Parameters
    ----------
    words
        As they are written, one blank between two.
    num_inside, num_outside
        Texts of the group and of the others that have it.
    log10_chance
        Log10 of the chance that a random group of this size would have it as often or oftener;
        lower means less of a coincidence.
    """

    words: str
    num_inside: int
    num_outside: int
    log10_chance: float


def shared_phrases(
    inside: Sequence[str], outside: Sequence[str], *, min_share: float, max_log10_chance: float
) -> list[Phrase]:
    """Find phrases that are common in one group of texts and rare in another.

    Parameters
    ----------
    inside, outside
        The group's texts and the others'.
    min_share
        Least share of the group's texts that have the phrase, in (0, 1].
    max_log10_chance
        Only phrases less likely than this (hypergeometric test).

    Returns
    -------
    list of Phrase
        The least likely first, of equals the longest; a phrase that is part of another one with
        the same counts is left out.
    """
    from scipy.stats import hypergeom

    counts = Counter(phrase for text in inside for phrase in set(_phrases(text)))
    needed = max(2, min_share * len(inside))
    common = {phrase: count for phrase, count in counts.items() if count >= needed}
    elsewhere = _count_known(outside, common)
    total = len(inside) + len(outside)
    found = []
    for phrase, count in common.items():
        chance = hypergeom.logsf(count - 1, total, count + elsewhere[phrase], len(inside))
        log10_chance = float(chance) / 2.302585092994046
        if log10_chance <= max_log10_chance:
            found.append(Phrase(phrase, count, elsewhere[phrase], log10_chance))
    found.sort(key=lambda phrase: (phrase.log10_chance, -len(phrase.words), phrase.words))
    return _drop_parts(found)


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the words stand in the text, one after the other."""
    return f" {phrase} " in f" {' '.join(_WORD.findall(text))} "


def _phrases(text: str) -> Iterator[str]:
    words = _WORD.findall(text)
    for start in range(len(words)):
        for length in range(1, min(MAX_PHRASE_WORDS, len(words) - start) + 1):
            yield " ".join(words[start : start + length])


def _count_known(texts: Sequence[str], known: dict[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    # Equal texts are common: questions of a dataset are mostly a few.
    for text, times in Counter(texts).items():
        for phrase in {phrase for phrase in _phrases(text) if phrase in known}:
            counts[phrase] += times
    return counts


def _drop_parts(phrases: list[Phrase]) -> list[Phrase]:
    kept: list[Phrase] = []
    for phrase in phrases:
        is_part = any(
            contains_phrase(other.words, phrase.words)
            and (other.num_inside, other.num_outside) == (phrase.num_inside, phrase.num_outside)
            for other in kept
        )
        if not is_part:
            kept.append(phrase)
    return kept
