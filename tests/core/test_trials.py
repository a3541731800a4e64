"""Bounds of a success probability against sums of exact binomial terms."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bye_audit.core.trials import chance_at_least, chance_at_most

CONFIDENCES = st.sampled_from([0.9, 0.95, 0.99, 0.999])


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    num_trials = draw(st.integers(1, 80))
    return draw(st.integers(0, num_trials)), num_trials


def chance_of_at_least(num_hits: int, num_trials: int, chance: float) -> float:
    """Add the binomial terms as fractions, so that nothing is rounded before the end."""
    p = Fraction(chance)
    return float(
        sum(
            comb(num_trials, hits) * p**hits * (1 - p) ** (num_trials - hits)
            for hits in range(num_hits, num_trials + 1)
        )
    )


@given(counts(), CONFIDENCES)
def test_at_the_lower_bound_so_many_hits_are_just_surprising(
    pair: tuple[int, int], confidence: float
) -> None:
    num_hits, num_trials = pair
    assume(num_hits > 0)
    bound = chance_at_least(num_hits, num_trials, confidence)
    assert 0 < bound < 1
    surprise = chance_of_at_least(num_hits, num_trials, bound)
    assert surprise == pytest.approx(1 - confidence, rel=1e-6)


@given(counts(), CONFIDENCES)
def test_the_upper_bound_is_the_lower_bound_of_the_failures(
    pair: tuple[int, int], confidence: float
) -> None:
    num_hits, num_trials = pair
    above = chance_at_most(num_hits, num_trials, confidence)
    assert chance_at_least(num_hits, num_trials, confidence) <= num_hits / num_trials <= above
    if num_hits < num_trials:
        # At the upper bound at most so many hits are just surprising.
        surprise = 1 - chance_of_at_least(num_hits + 1, num_trials, above)
        assert surprise == pytest.approx(1 - confidence, rel=1e-5)


@given(counts(), CONFIDENCES)
def test_one_more_hit_says_more(pair: tuple[int, int], confidence: float) -> None:
    num_hits, num_trials = pair
    assume(num_hits < num_trials)
    lower = chance_at_least(num_hits, num_trials, confidence)
    assert chance_at_least(num_hits + 1, num_trials, confidence) > lower


def test_without_trials_nothing_is_known() -> None:
    assert chance_at_least(0, 0, 0.99) == 0
    assert chance_at_most(0, 0, 0.99) == 1


@pytest.mark.parametrize("num_trials", [1, 8, 40])
def test_all_hits_have_a_bound_in_closed_form(num_trials: int) -> None:
    # p^n = 0.01.
    expected = 0.01 ** (1 / num_trials)
    assert chance_at_least(num_trials, num_trials, 0.99) == pytest.approx(expected, rel=1e-9)
