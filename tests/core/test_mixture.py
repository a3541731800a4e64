"""Mixtures against known components, and the properties every fit must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians, split_at_emptiest


def two_modes(
    rng: np.random.Generator, num_values: int, rate: float, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clean mode around 0 with spread 1 and a rare low one; say which is which."""
    is_low = np.arange(num_values) < round(rate * num_values)
    low, high = rng.normal(-distance, 0.5, num_values), rng.normal(0, 1, num_values)
    return np.where(is_low, low, high), is_low


def test_known_components_are_found(rng: np.random.Generator) -> None:
    values, _ = two_modes(rng, 4000, 0.1, 6)
    mixture = fit_two_gaussians(values).mixture
    assert mixture.mean_low == pytest.approx(-6, abs=0.1)
    assert mixture.mean_high == pytest.approx(0, abs=0.1)
    assert mixture.var_low == pytest.approx(0.25, abs=0.05)
    assert mixture.var_high == pytest.approx(1, abs=0.1)
    assert mixture.weight_low == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05])
def test_a_rare_mode_is_found_where_a_single_start_misses_it(
    rng: np.random.Generator, rate: float
) -> None:
    values, is_low = two_modes(rng, 3000, rate, 3.5)
    fit = fit_two_gaussians(values)
    flags = fit.mixture.posterior_low(values) > 0.5
    f1 = 2 * (flags & is_low).sum() / (flags.sum() + is_low.sum())
    assert f1 > 0.75
    assert fit.delta_bic > 0
    single = GaussianMixture(2, random_state=0).fit(values[:, None])
    single_flags = single.predict(values[:, None]) == single.means_[:, 0].argmin()
    assert 2 * (single_flags & is_low).sum() / (single_flags.sum() + is_low.sum()) < f1


def test_the_other_tail_is_searched_on_request(rng: np.random.Generator) -> None:
    values, is_low = two_modes(rng, 2000, 0.02, 4)
    mirrored = fit_two_gaussians(-values, tail="high").mixture
    straight = fit_two_gaussians(values).mixture
    assert mirrored.mean_high == pytest.approx(-straight.mean_low, abs=0.05)
    assert ((mirrored.posterior_low(-values) < 0.5) == is_low).mean() > 0.99


def test_equal_values_do_not_make_a_component_of_their_own(rng: np.random.Generator) -> None:
    values, is_low = two_modes(rng, 3000, 0.1, 4)
    values[-300:] = 0.3  # one image and question repeated 300 times
    mixture = fit_two_gaussians(values).mixture
    assert mixture.mean_low == pytest.approx(-4, abs=0.1)
    assert ((mixture.posterior_low(values) > 0.5) == is_low).mean() > 0.99


@pytest.mark.parametrize("num_values", [200, 1000, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_plain_noise_prefers_one_component(num_values: int, seed: int) -> None:
    fit = fit_two_gaussians(np.random.default_rng(seed).normal(size=num_values))
    assert fit.delta_bic < 0


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6, 1e-9])
def test_constant_values_have_two_equal_components(value: float) -> None:
    fit = fit_two_gaussians(np.full(50, value))
    assert fit.is_constant
    assert fit.mixture.mean_low == fit.mixture.mean_high == pytest.approx(value)
    assert fit.delta_bic < 0
    np.testing.assert_allclose(fit.mixture.posterior_low(np.array([value])), 0.5)


def test_rounding_is_no_distribution(rng: np.random.Generator) -> None:
    values = np.float32(4.1) + rng.choice([-2e-7, 0, 2e-7], 100)
    assert fit_two_gaussians(values).is_constant


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf]])
def test_values_no_mixture_can_have_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a mixture needs"):
        fit_two_gaussians(np.array(values))


def test_two_values_are_enough() -> None:
    mixture = fit_two_gaussians(np.array([1.0, 2.0])).mixture
    assert mixture.mean_low <= mixture.mean_high


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    shift=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
)
def test_fit_moves_with_the_values(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values, _ = two_modes(rng, 200, 0.2, 5)
    one, two = fit_two_gaussians(values), fit_two_gaussians(values * scale + shift)
    assert two.mixture.weight_low == pytest.approx(one.mixture.weight_low, abs=1e-4)
    assert two.mixture.mean_low == pytest.approx(
        one.mixture.mean_low * scale + shift, abs=1e-3 * scale + 1e-9
    )
    assert two.delta_bic == pytest.approx(one.delta_bic, abs=0.01)
    assert two.mixture.mean_low <= two.mixture.mean_high


def test_order_of_values_and_repetition_change_nothing(rng: np.random.Generator) -> None:
    values, _ = two_modes(rng, 500, 0.1, 4)
    assert fit_two_gaussians(values) == fit_two_gaussians(rng.permutation(values))


def test_posterior_and_cut_of_a_symmetric_mixture() -> None:
    mixture = TwoGaussians(mean_low=0, mean_high=4, var_low=1, var_high=1, weight_low=0.5)
    # Equal weights and variances: the odds at x are exp(4 (2 - x)).
    np.testing.assert_allclose(
        mixture.posterior_low(np.array([2.0, 1.0])), [0.5, 1 / (1 + np.exp(-4))], rtol=1e-12
    )
    assert mixture.cut() == pytest.approx(2, abs=1e-3)
    assert mixture.posterior_low(np.array([-1e6, 1e6])).tolist() == [1.0, 0.0]


def test_swallowed_component_has_no_cut() -> None:
    mixture = TwoGaussians(mean_low=0, mean_high=0.1, var_low=1, var_high=1, weight_low=0.01)
    assert mixture.cut() is None


def test_the_emptiest_place_is_between_the_modes_and_both_sides_are_described(
    rng: np.random.Generator,
) -> None:
    low, high = rng.normal(0, 1, 900), rng.normal(10, 0.5, 100)
    values = rng.permutation(np.concatenate([low, high]))
    split = split_at_emptiest(values, fit_two_gaussians(values).mixture)
    assert split.weight_low == pytest.approx(0.9)
    assert split.mean_low == pytest.approx(low.mean())
    assert split.mean_high == pytest.approx(high.mean())
    assert split.var_high == pytest.approx(high.var(), rel=0.1), "but for the floor"


def test_a_density_that_only_falls_has_no_emptiest_place(rng: np.random.Generator) -> None:
    values = rng.exponential(1.0, 2000)
    mixture = fit_two_gaussians(values, tail="high").mixture
    assert split_at_emptiest(values, mixture) is mixture
