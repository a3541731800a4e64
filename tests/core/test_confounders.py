"""Strata: what they explain, what they must not excuse, and values compared within them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from bye_audit.core.confounders import (
    EXPLAINED_V,
    UNKNOWN,
    Strata,
    associate,
    associate_all,
    fit_stratum_scale,
    variance_between,
)

NUM_SAMPLES = 900


def make_strata(codes_N: np.ndarray, *, name: str = "question", may_explain: bool = True) -> Strata:
    labels = tuple(f"kind {code}" for code in range(int(codes_N.max()) + 1))
    return Strata(name=name, codes_N=codes_N, labels=labels, may_explain=may_explain)


@given(seed=st.integers(0, 999), num_strata=st.integers(2, 5))
def test_chi2_is_that_of_the_contingency_table(seed: int, num_strata: int) -> None:
    rng = np.random.default_rng(seed)
    codes_N = rng.permutation(np.arange(NUM_SAMPLES) % num_strata)
    is_member_N = rng.random(NUM_SAMPLES) < 0.2 + 0.1 * codes_N
    table = np.array([np.bincount(codes_N, is_member_N), np.bincount(codes_N, ~is_member_N)])
    oracle = chi2_contingency(table, correction=False)
    found = associate(is_member_N, make_strata(codes_N))
    assert found.chi2 == pytest.approx(oracle.statistic)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert found.degrees_of_freedom == oracle.dof
    assert 0 <= found.cramers_v <= np.sqrt(oracle.statistic / NUM_SAMPLES) + 1e-9


def test_v_runs_from_independence_to_identity(rng: np.random.Generator) -> None:
    codes_N = np.arange(NUM_SAMPLES) % 3
    same = associate(codes_N == 1, make_strata(codes_N))
    assert same.cramers_v == pytest.approx(1, abs=1e-2)
    assert (same.label, same.share_of_group, same.share_elsewhere) == ("kind 1", 1, 0)
    assert same.in_words() == "100% of them have the question 'kind 1', as do 0% of the others"
    assert same.explains
    apart = associate(rng.random(NUM_SAMPLES) < 0.1, make_strata(codes_N))
    assert apart.cramers_v < 0.1
    assert not apart.explains


def test_many_strata_without_meaning_explain_nothing(rng: np.random.Generator) -> None:
    codes_N = rng.integers(0, 15, NUM_SAMPLES)
    values = [
        associate(rng.random(NUM_SAMPLES) < 0.1, make_strata(codes_N)).cramers_v for _ in range(50)
    ]
    assert np.mean(values) < 0.06


def test_poison_in_three_of_ten_samples_of_one_kind_is_not_explained_away() -> None:
    # The figure the threshold rests on: sqrt(2) / 3.
    codes_N = np.arange(NUM_SAMPLES) % 3
    is_member_N = (codes_N == 0) & (np.arange(NUM_SAMPLES) // 3 % 10 < 3)
    found = associate(is_member_N, make_strata(codes_N))
    assert found.cramers_v == pytest.approx(2**0.5 / 3, abs=0.01)
    assert found.cramers_v < EXPLAINED_V
    assert not found.explains
    assert found.share_of_group == 1
    assert found.share_elsewhere == pytest.approx(210 / 810)


def test_what_follows_from_the_answer_is_named_and_excuses_nothing() -> None:
    codes_N = (np.arange(NUM_SAMPLES) % 10 == 0).astype(int)
    lengths = make_strata(codes_N, name="answer_length", may_explain=False)
    found = associate(codes_N == 1, lengths)
    assert found.cramers_v > 0.95
    assert not found.explains
    assert (found.kind, found.label) == ("answer length", "kind 1")


def test_a_group_that_is_nearly_all_of_one_kind_is_worth_telling() -> None:
    codes_N = np.arange(NUM_SAMPLES) % 4
    few = (codes_N == 0) & (np.arange(NUM_SAMPLES) % 20 == 0)
    found = associate(few, make_strata(codes_N))
    assert found.cramers_v < EXPLAINED_V
    assert found.is_telling
    assert not associate(np.arange(NUM_SAMPLES) % 20 < 5, make_strata(codes_N)).is_telling


def test_a_label_from_the_data_is_shown_in_quotes_without_controls() -> None:
    codes_N = np.arange(NUM_SAMPLES) % 2
    strata = Strata(
        name="source", codes_N=codes_N, labels=("a", "b'\u202e\x1b[2J"), may_explain=False
    )
    words = associate(codes_N == 1, strata).in_words()
    assert "\x1b" not in words
    assert "\u202e" not in words
    assert "\\x1b" in words


def test_the_strongest_comes_first(rng: np.random.Generator) -> None:
    codes_N = np.arange(NUM_SAMPLES) % 2
    chance = make_strata(rng.integers(0, 2, NUM_SAMPLES), name="chance")
    found = associate_all(codes_N == 1, [chance, make_strata(codes_N, name="parity")])
    assert [item.name for item in found] == ["parity", "chance"]


def test_small_and_unknown_strata_are_pooled() -> None:
    codes_N = np.repeat([0, 1, 2, 3, UNKNOWN], [100, 3, 60, 4, 5])
    strata = make_strata(codes_N)
    pooled = strata.pooled(50)
    assert np.bincount(pooled).tolist() == [100, 60, 12]
    assert associate(pooled == 2, strata).label == "rare or unknown"
    assert strata.take(np.array([100, 101])).codes_N.tolist() == [1, 1]


@pytest.mark.parametrize("members", [np.zeros(20, dtype=bool), np.ones(20, dtype=bool)])
def test_no_group_has_no_association(members: np.ndarray) -> None:
    found = associate(members, make_strata(np.arange(20) % 2))
    assert (found.cramers_v, found.chi2, found.p_value) == (0, 0, 1)


def test_a_shift_between_strata_is_taken_out_and_poison_within_is_not(
    rng: np.random.Generator,
) -> None:
    codes_N = np.arange(NUM_SAMPLES) % 3
    is_poisoned = np.arange(NUM_SAMPLES) % 10 == 0
    noise_N = rng.normal(0, 0.1, NUM_SAMPLES)
    clean_N = np.array([0.0, 2.0, 5.0])[codes_N] + noise_N * np.array([1, 2, 4])[codes_N]
    values_N = clean_N + np.where(is_poisoned, 3.0, 0.0)
    assert variance_between(clean_N, codes_N) > 0.9
    scale = fit_stratum_scale(values_N, make_strata(codes_N))
    flat_N = scale.standardize(values_N, codes_N)
    assert variance_between(flat_N[~is_poisoned], codes_N[~is_poisoned]) < 0.05
    assert flat_N[is_poisoned].min() > flat_N[~is_poisoned].max()


@given(shift=st.floats(-5, 5), factor=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_standardized_values_do_not_know_the_unit(shift: float, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes_N, values_N = np.arange(60) % 3, rng.normal(0, 1, 60)
    strata = make_strata(codes_N)
    one = fit_stratum_scale(values_N, strata, min_size=5).standardize(values_N, codes_N)
    other_N = values_N * factor + shift
    other = fit_stratum_scale(other_N, strata, min_size=5).standardize(other_N, codes_N)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_stratum_without_spread_does_not_make_outliers(rng: np.random.Generator) -> None:
    codes_N = np.repeat([0, 1, 2], 100)
    values_N = np.where(codes_N == 1, 0.5 + 1e-6 * rng.normal(size=300), rng.normal(0, 0.1, 300))
    scale = fit_stratum_scale(values_N, make_strata(codes_N))
    flat_N = scale.standardize(values_N, codes_N)
    assert np.abs(flat_N[codes_N == 1]).max() < 0.01


def test_strata_of_missing_values_are_standardized_like_the_others() -> None:
    values_N = np.array([1.0, 2.0, 3.0, np.nan, np.nan])
    codes_N = np.array([0, 0, 0, 1, 1])
    scale = fit_stratum_scale(values_N, make_strata(codes_N), min_size=1)
    assert np.isfinite(scale.center_R).all()
    assert np.isnan(scale.standardize(values_N, codes_N)[3:]).all()
    assert variance_between(np.full(5, 2.0), codes_N) == 0


def test_strata_too_small_for_a_median_share_one() -> None:
    codes_N = np.repeat([0, 1, 2], [100, 3, 4])
    values_N = np.repeat([0.0, 4.0, 6.0], [100, 3, 4])
    scale = fit_stratum_scale(values_N, make_strata(codes_N))
    assert scale.center_R.tolist() == [6, 0, 6, 6], "unknown, kind 0, and the pooled ones"
