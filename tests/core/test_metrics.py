"""Rates against hand-computed values and their intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.core.metrics import (
    clean_performance,
    precision_recall_f1,
    wilson_proportion,
)


def test_wilson_interval_of_a_textbook_case() -> None:
    # 7 of 20: centre (0.35 + 0.09604) / 1.19207, half width 0.19272.
    rate = wilson_proportion(7, 20)
    assert rate.value == 0.35
    assert rate.low == pytest.approx(0.1812, abs=1e-4)
    assert rate.high == pytest.approx(0.5671, abs=1e-4)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_interval_holds_the_value_and_stays_in_bounds(num_trials: int, share: float) -> None:
    rate = wilson_proportion(round(share * num_trials), num_trials)
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low < rate.high


def test_nothing_tried_has_no_rate() -> None:
    assert wilson_proportion(0, 0).value is None
    with pytest.raises(ValueError, match="impossible"):
        wilson_proportion(3, 2)


def test_precision_recall_and_f1() -> None:
    # 4 flagged, 5 poisoned, 3 both, of 10.
    flags = [True] * 4 + [False] * 6
    truth = [True] * 3 + [False] * 5 + [True] * 2
    quality = precision_recall_f1(flags, truth)
    assert quality.precision.value == 0.75
    assert quality.recall.value == 0.6
    assert quality.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert quality.false_positive_rate.value == 0.2


def test_nothing_flagged() -> None:
    missed = precision_recall_f1([False, False], [True, False])
    assert (missed.precision.value, missed.recall.value, missed.f1) == (None, 0.0, 0.0)
    assert precision_recall_f1([False], [False]).f1 is None
    with pytest.raises(ValueError, match="must be alike"):
        precision_recall_f1([True], [True, False])


def test_clean_performance_is_exact_match_of_words() -> None:
    rate = clean_performance(["Two.", "-5", "a red square"], ["two", "5", "a red circle"])
    assert rate.num_hits == 1
    with pytest.raises(ValueError, match="do not match"):
        clean_performance(["a"], [])
