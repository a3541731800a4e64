"""Words that a group of texts shares and the other texts do not."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_PHRASE_WORDS = 8
MAX_WORDS = 512
"""Words of a text that are looked at: half of them at its start, half at its end."""
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
    needed = max(2, min_share * len(inside))
    common = _count_common(inside, needed)
    elsewhere = _count_known(outside, common)
    chances = _log10_chances(common, elsewhere, len(inside), len(inside) + len(outside))
    found = [
        Phrase(words, count, elsewhere[words], chance)
        for (words, count), chance in zip(common.items(), chances, strict=True)
        if chance <= max_log10_chance
    ]
    return sorted(_tight(found), key=lambda one: (one.log10_chance, -len(one.words), one.words))


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the words stand in the text, one after the other."""
    return f" {phrase} " in f" {' '.join(_WORD.findall(text))} "


def _count_common(texts: Sequence[str], needed: float) -> dict[str, int]:
    """Count the phrases that at least so many texts have."""
    # No phrase is commoner than its words: without the rare ones little is left to count.
    single = _count(texts, lambda words: words)
    frequent = {word for word, times in single.items() if times >= needed}
    counts = _count(texts, lambda words: _phrases(words, frequent))
    return {phrase: times for phrase, times in counts.items() if times >= needed}


def _count_known(texts: Sequence[str], known: dict[str, int]) -> Counter[str]:
    frequent = {phrase for phrase in known if " " not in phrase}
    return _count(texts, lambda words: filter(known.__contains__, _phrases(words, frequent)))


def _count(texts: Sequence[str], take: Callable[[list[str]], Iterable[str]]) -> Counter[str]:
    """Count in how many texts there is what is taken from their words."""
    counts: Counter[str] = Counter()
    # Equal texts are common: questions of a dataset are mostly a few.
    for text, times in Counter(texts).items():
        for item in set(take(_words_at_both_ends(text))):
            counts[item] += times
    return counts


def _words_at_both_ends(text: str) -> list[str]:
    words: list[str] = _WORD.findall(text)
    half = MAX_WORDS // 2
    return words if len(words) <= MAX_WORDS else [*words[:half], *words[-half:]]


def _phrases(words: list[str], frequent: set[str]) -> Iterator[str]:
    """Give every run of frequent words."""
    for start in range(len(words)):
        for stop in range(start + 1, min(start + MAX_PHRASE_WORDS, len(words)) + 1):
            if words[stop - 1] not in frequent:
                break
            yield " ".join(words[start:stop])


def _log10_chances(
    inside: dict[str, int], outside: Counter[str], num_drawn: int, num_texts: int
) -> list[float]:
    """Of each phrase the chance that texts drawn blindly would have it as often or oftener."""
    from scipy.stats import hypergeom

    if not inside:
        return []
    # Many phrases share their counts, and each sum of the distribution takes its time.
    pairs = [(count, count + outside[phrase]) for phrase, count in inside.items()]
    distinct = {
        pair: float(hypergeom.logsf(pair[0] - 1, num_texts, pair[1], num_drawn)) / math.log(10)
        for pair in set(pairs)
    }
    return [distinct[pair] for pair in pairs]


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
    if (one.num_inside, one.num_outside) != (other.num_inside, other.num_outside):
        return False
    first, second = f" {one.words} ", f" {other.words} "
    return first in second or second in first
