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
        The least likely first, of equals the longest. Of phrases with the same counts that are
        parts of each other one is given: the longest that begins and ends with a word that is
        peculiar by itself, so that ordinary neighbours of the words are left out; or else the
        shortest.
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
    return sorted(_tight(found), key=lambda one: (one.log10_chance, -len(one.words), one.words))


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


def _tight(phrases: list[Phrase]) -> list[Phrase]:
    """Keep one of phrases that are parts of each other and found in the same texts."""
    peculiar = {phrase.words for phrase in phrases if " " not in phrase.words}
    framed = [
        phrase
        for phrase in phrases
        if {phrase.words.split()[0], phrase.words.split()[-1]} <= peculiar
    ]
    if framed:
        longest_first = sorted(framed, key=lambda phrase: -len(phrase.words))
        return _first_of_kin(longest_first)
    return _first_of_kin(sorted(phrases, key=lambda phrase: len(phrase.words)))


def _first_of_kin(phrases: list[Phrase]) -> list[Phrase]:
    kept: list[Phrase] = []
    for phrase in phrases:
        if not any(_is_kin(phrase, other) for other in kept):
            kept.append(phrase)
    return kept


def _is_kin(one: Phrase, other: Phrase) -> bool:
    is_part = contains_phrase(one.words, other.words) or contains_phrase(other.words, one.words)
    counts = (one.num_inside, one.num_outside), (other.num_inside, other.num_outside)
    return is_part and counts[0] == counts[1]
