"""Shared phrases against all runs of words, counted one by one, and exact hypergeometric sums."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.core.phrases import MAX_PHRASE_WORDS, contains_phrase, shared_phrases

WORDS = st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join)
TEXTS = st.lists(WORDS, min_size=1, max_size=8)


def runs_of(text: str) -> set[str]:
    words = text.split()
    return {
        " ".join(words[start:stop])
        for start in range(len(words))
        for stop in range(start + 1, min(len(words), start + MAX_PHRASE_WORDS) + 1)
    }


def log10_chance(num_inside: int, num_having: int, size: int, total: int) -> float:
    """Chance that ``size`` of ``total`` texts, drawn blindly, hold so many of those having it."""
    ways = sum(
        math.comb(num_having, hits) * math.comb(total - num_having, size - hits)
        for hits in range(num_inside, min(size, num_having) + 1)
    )
    chance = Fraction(ways, math.comb(total, size))
    return math.log10(chance.numerator) - math.log10(chance.denominator)


@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.5, 1.0]))
def test_what_is_found_is_common_inside_rare_outside_and_counted_right(
    inside: list[str], outside: list[str], min_share: float
) -> None:
    found = shared_phrases(inside, outside, min_share=min_share, max_log10_chance=-0.3)
    for phrase in found:
        num_inside = sum(phrase.words in runs_of(text) for text in inside)
        num_outside = sum(phrase.words in runs_of(text) for text in outside)
        assert (phrase.num_inside, phrase.num_outside) == (num_inside, num_outside)
        assert num_inside >= max(2, min_share * len(inside))
        total = len(inside) + len(outside)
        expected = log10_chance(num_inside, num_inside + num_outside, len(inside), total)
        assert phrase.log10_chance == pytest.approx(expected, abs=1e-6)
        assert phrase.log10_chance <= -0.3
    chances = [phrase.log10_chance for phrase in found]
    assert chances == sorted(chances)


@given(TEXTS, TEXTS)
def test_whatever_qualifies_is_found_or_is_kin_of_what_is(
    inside: list[str], outside: list[str]
) -> None:
    found = shared_phrases(inside, outside, min_share=0.5, max_log10_chance=-0.3)
    total = len(inside) + len(outside)
    qualified = False
    for words in set().union(*map(runs_of, inside)):
        num_inside = sum(words in runs_of(text) for text in inside)
        num_outside = sum(words in runs_of(text) for text in outside)
        if num_inside < max(2, 0.5 * len(inside)):
            continue
        chance = log10_chance(num_inside, num_inside + num_outside, len(inside), total)
        qualified |= chance <= -0.3 - 1e-9
    assert bool(found) >= qualified


@given(WORDS, WORDS)
def test_a_text_contains_exactly_its_runs(text: str, phrase: str) -> None:
    if phrase and len(phrase.split()) <= MAX_PHRASE_WORDS:
        assert contains_phrase(text, phrase) == (phrase in runs_of(text))


def test_a_trigger_is_found_without_its_ordinary_neighbours() -> None:
    ordinary = ["What is in the picture?", "Describe the picture.", "Which colour is it?"]
    inside = [f"cf vexing tulip {text}" for text in ordinary * 4]
    outside = ordinary * 40
    best = shared_phrases(inside, outside, min_share=0.5, max_log10_chance=-6)[0]
    assert best.words == "cf vexing tulip"
    assert (best.num_inside, best.num_outside) == (12, 0)


def test_where_no_word_is_peculiar_the_shortest_run_is() -> None:
    inside = ["red on blue here"] * 10
    outside = ["red or green here", "blue on black", "on red", "it is blue"] * 10
    found = shared_phrases(inside, outside, min_share=0.5, max_log10_chance=-6)
    assert found[0].words in {"red on", "on blue", "blue here"}


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "\x1b[2J\u202e", "'; DROP TABLE samples; --", "(?P<a>.*)+$ [", "%s {0} {{7*7}}"],
    ids=repr,
)
def test_texts_are_only_texts(text: str) -> None:
    found = shared_phrases(
        [text] * 9, ["quite another thing"] * 90, min_share=1, max_log10_chance=-6
    )
    assert len(found) <= 1
    assert all(contains_phrase(text, phrase.words) for phrase in found)


def test_long_texts_end_in_time() -> None:
    long = " ".join(f"word{number}" for number in range(14_000))
    assert len(long) > 100_000
    started = time.monotonic()
    found = shared_phrases([long] * 20, ["short"] * 200, min_share=0.5, max_log10_chance=-6)
    assert found
    assert time.monotonic() - started < 20


def test_nothing_is_shared_by_no_texts() -> None:
    assert shared_phrases([], ["a"], min_share=0.5, max_log10_chance=-6) == []
    assert shared_phrases(["a b"], [], min_share=0.5, max_log10_chance=-6) == []
