"""Cutting mixtures in two, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from bye_audit.core.gaussians import GaussianFit
from bye_audit.core.groups import TwoGroups, cut_in_two, overlap_of_groups


def make_fit(mean: list[float], std: list[float], weight: list[float]) -> GaussianFit:
    return GaussianFit(
        mean_K=np.array(mean),
        var_K=np.array(std) ** 2,
        weight_K=np.array(weight),
        mean_log_likelihood=0.0,
        num_values=100,
        spread=1.0,
        start="made up",
    )


@given(
    distance=st.floats(0, 12),
    weight=st.floats(0.01, 0.99),
    shift=st.floats(-50, 50),
    scale=st.floats(0.01, 100),
)
def test_overlap_of_two_equal_normals_is_the_closed_form(
    distance: float, weight: float, shift: float, scale: float
) -> None:
    fit = make_fit([shift, shift + distance * scale], [scale, scale], [weight, 1 - weight])
    # Each density counts as 1: the weights do not matter. The grid knows the area to 2e-4.
    assert overlap_of_groups(fit, 1) == pytest.approx(2 * norm.cdf(-distance / 2), abs=2e-4)


def test_overlap_of_unequal_normals_is_what_a_fine_grid_gives() -> None:
    fit = make_fit([0.0, 1.5, 2.0], [1.0, 0.05, 3.0], [0.7, 0.2, 0.1])
    grid = np.linspace(-30, 40, 2_000_001)
    low = (0.7 * norm.pdf(grid, 0, 1) + 0.2 * norm.pdf(grid, 1.5, 0.05)) / 0.9
    oracle = np.trapezoid(np.minimum(low, norm.pdf(grid, 2, 3)), grid)
    assert overlap_of_groups(fit, 2) == pytest.approx(oracle, abs=2e-3)


@pytest.mark.parametrize(("rate", "side"), [(0.05, 1), (0.05, -1), (0.3, 1)])
def test_a_minority_is_found_on_either_side(
    rng: np.random.Generator, rate: float, side: int
) -> None:
    is_few = np.arange(2000) < rate * 2000
    values = np.where(is_few, side * 8.0, 0.0) + rng.normal(0, 1, 2000)
    best = cut_in_two(values, np.ones(2000))[0]
    assert best.is_low_minority == (side < 0)
    assert best.share == pytest.approx(rate, abs=0.01)
    np.testing.assert_array_equal(best.minority_chance(values) > 0.5, is_few)
    assert best.majority_mean == pytest.approx(0, abs=0.2)
    assert best.minority_mean == pytest.approx(side * 8, abs=0.4)
    assert best.separation > 1e3


def test_counted_values_give_the_same_cut_as_repeated_ones(rng: np.random.Generator) -> None:
    values = np.round(np.concatenate([rng.normal(0, 1, 900), rng.normal(9, 1, 100)]), 1)
    distinct, counts = np.unique(values, return_counts=True)
    one, other = cut_in_two(values, np.ones(1000))[0], cut_in_two(distinct, counts)[0]
    assert one.share == pytest.approx(other.share, abs=1e-3)
    assert one.overlap == pytest.approx(other.overlap, abs=1e-3)


def test_cuts_come_with_the_least_overlap_first(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(4, 1, 300), rng.normal(30, 1, 200)])
    cuts = cut_in_two(values, np.ones(1000))
    assert [cut.overlap for cut in cuts] == sorted(cut.overlap for cut in cuts)
    assert cuts[0].share == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("values", [np.full(50, 0.3), np.array([1.0, 2.0, 3.0]), np.empty(0)])
def test_nothing_to_cut_is_an_answer(values: np.ndarray) -> None:
    assert cut_in_two(values, np.ones(values.size)) == []


def test_gaussian_noise_has_no_cut(rng: np.random.Generator) -> None:
    assert cut_in_two(rng.normal(0, 1, 3000), np.ones(3000)) == []


def test_a_wide_minority_does_not_win_beyond_the_majority() -> None:
    fit = make_fit([0.0, 3.0], [0.1, 2.0], [0.8, 0.2])
    groups = TwoGroups(fit=fit, num_low=1, overlap=0.1, delta_bic=50)
    assert groups.minority_chance(np.array([-2.0, 3.0, np.nan]))[:2].tolist() == [
        0,
        pytest.approx(1),
    ]
    assert np.isnan(groups.minority_chance(np.array([np.nan])))[0]
    assert groups.to_json()["side"] == "high"
