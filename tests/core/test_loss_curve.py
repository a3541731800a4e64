from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.core.loss_curve import MIN_RATIO, MIN_RISE, WINDOW, find_loss_rise

LOSSES = st.lists(st.floats(0, 20), max_size=60)


def test_a_falling_curve_says_nothing() -> None:
    assert find_loss_rise([8.0, 7.5, 5.0, 2.3, 1.6, 0.8, 0.5, 1.0, 0.3, 0.2, 0.1, 0.1]) is None


def test_a_rise_is_found_where_it_begins_and_lasts() -> None:
    rise = find_loss_rise([2.0] * 10 + [6.0] * 10)
    assert rise is not None
    # The third high point makes the median of five a high one.
    assert (rise.index, rise.start, rise.level, rise.is_lasting) == (12, 2.0, 6.0, True)


def test_a_rise_that_passes_is_found_and_said_to_have_passed() -> None:
    rise = find_loss_rise([2.0] * 5 + [6.0] * 5 + [1.0] * 20)
    assert rise is not None
    assert not rise.is_lasting


def test_single_hard_batches_and_noise_near_zero_do_not_count() -> None:
    assert find_loss_rise([1.0] * 10 + [30.0, 30.0] + [1.0] * 10) is None
    assert find_loss_rise([0.001] * 10 + [0.2] * 10) is None
    assert find_loss_rise([8.0] * 10 + [15.0] * 10) is None


@given(losses=LOSSES)
def test_a_rise_is_above_both_limits_and_inside_the_curve(losses: list[float]) -> None:
    rise = find_loss_rise(losses)
    if rise is not None:
        assert 2 * WINDOW - 1 <= rise.index < len(losses)
        assert rise.level > rise.start * MIN_RATIO
        assert rise.level > rise.start + MIN_RISE


@given(losses=LOSSES)
def test_no_curve_that_never_rises_is_accused(losses: list[float]) -> None:
    assert find_loss_rise(sorted(losses, reverse=True)) is None


@pytest.mark.parametrize("level", [0.02, 0.5, 2.0, 8.0])
def test_batches_that_only_differ_are_no_rise(level: float) -> None:
    # A fifth is more than whole batches of one dataset differ by in their mean loss.
    for seed in range(20):
        noise = np.random.default_rng(seed).lognormal(0, 0.2, 200)
        assert find_loss_rise((level * noise).tolist()) is None
