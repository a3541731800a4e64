"""Fits of K components: against known ones, scikit-learn's criteria and the exact fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from bye_audit.core import gaussians
from bye_audit.core.gaussians import GaussianFit, fit_gaussians, fit_gaussians_once, grouped
from bye_audit.core.histogram import ValueHistogram
from bye_audit.core.starts import SortedValues


def three_modes(rng: np.random.Generator, num_values: int) -> np.ndarray:
    group = rng.choice(3, num_values, p=[0.05, 0.75, 0.2])
    return np.array([-6.0, 0.0, 5.0])[group] + rng.normal(size=num_values)


def parameters(fit: GaussianFit) -> np.ndarray:
    """Parameters in units of the values' spread."""
    return np.concatenate([fit.mean_K / fit.spread, fit.var_K / fit.spread**2, fit.weight_K])


def test_three_known_components_are_found(rng: np.random.Generator) -> None:
    fit = fit_gaussians(three_modes(rng, 4000), 3, tail="both")
    np.testing.assert_allclose(fit.mean_K, [-6, 0, 5], atol=0.2)
    np.testing.assert_allclose(fit.var_K, 1, atol=0.2)
    np.testing.assert_allclose(fit.weight_K, [0.05, 0.75, 0.2], atol=0.02)


@pytest.mark.parametrize("num_components", [1, 2, 3])
def test_criteria_and_posterior_are_scikit_learns(
    rng: np.random.Generator, num_components: int
) -> None:
    values = three_modes(rng, 1000)
    fit = fit_gaussians(values, num_components)
    theirs = GaussianMixture(num_components, covariance_type="diag").fit(values[:, None])
    theirs.means_ = fit.mean_K[:, None]
    theirs.covariances_ = fit.var_K[:, None]
    theirs.precisions_cholesky_ = 1 / np.sqrt(fit.var_K)[:, None]
    theirs.weights_ = fit.weight_K
    assert fit.bic == pytest.approx(theirs.bic(values[:, None]), rel=1e-9)
    assert fit.aic == pytest.approx(theirs.aic(values[:, None]), rel=1e-9)
    np.testing.assert_allclose(
        fit.posterior(values), theirs.predict_proba(values[:, None]), atol=1e-9
    )
    np.testing.assert_allclose(
        np.log(fit.density(values)), theirs.score_samples(values[:, None]), atol=1e-9
    )


def test_bic_prefers_the_true_number_of_components(rng: np.random.Generator) -> None:
    values = three_modes(rng, 3000)
    fits = [fit_gaussians(values, num, tail="both") for num in (1, 2, 3, 4)]
    assert min(fits, key=lambda fit: fit.bic).num_components == 3


def test_one_component_is_mean_and_variance(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 100)
    fit = fit_gaussians(values, 1)
    assert fit.mean_K[0] == pytest.approx(values.mean())
    assert fit.var_K[0] == pytest.approx(values.var())
    assert fit.weight_K.tolist() == [1.0]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), num_components=st.integers(1, 3))
def test_counts_are_repetitions(seed: int, num_components: int) -> None:
    rng = np.random.default_rng(seed)
    values, count = three_modes(rng, 200), rng.integers(0, 3, 200)
    weighted = fit_gaussians(values, num_components, weights_N=count.astype(float))
    repeated = fit_gaussians(np.repeat(values, count), num_components)
    assert weighted.num_values == count.sum()
    np.testing.assert_allclose(parameters(weighted), parameters(repeated), atol=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), distance=st.floats(2, 8), scale=st.floats(0.01, 10))
def test_one_start_gives_scikit_learns_default(seed: int, distance: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = scale * (rng.normal(size=400) + distance * (rng.random(400) < 0.2))
    ours = fit_gaussians_once(values, 2)
    parts = _best_two_means(values)
    theirs = GaussianMixture(
        2,
        means_init=[[part.mean()] for part in parts],
        weights_init=[part.size / values.size for part in parts],
        precisions_init=[[[1 / (part.var() + 1e-6)]] for part in parts],
    ).fit(values[:, None])
    order = theirs.means_[:, 0].argsort()
    np.testing.assert_allclose(ours.mean_K, theirs.means_[order, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.var_K, theirs.covariances_[order, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(ours.weight_K, theirs.weights_[order], rtol=1e-5)
    assert ours.mean_log_likelihood == pytest.approx(theirs.score(values[:, None]), abs=1e-6)


def _best_two_means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Try every split for the least variance within its parts."""
    ordered = np.sort(values)
    splits = [np.split(ordered, [cut]) for cut in range(1, ordered.size)]
    low, high = min(splits, key=lambda parts: sum(part.var() * part.size for part in parts))
    return low, high


def test_constant_values_have_equal_components() -> None:
    fit = fit_gaussians(np.full(30, 2.5), 3)
    assert fit.is_constant
    np.testing.assert_allclose(fit.mean_K, 2.5)
    np.testing.assert_allclose(fit.posterior(np.array([2.5])), 1 / 3)


def test_few_distinct_values_can_be_fitted() -> None:
    fit = fit_gaussians(np.repeat([1.0, 2.0], 20), 3)
    assert np.isfinite(parameters(fit)).all()
    assert fit.mean_K[[0, -1]] == pytest.approx([1, 2], abs=0.05)


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([1.0, 2.0], None, "at least 3 values"),
        ([1.0, np.nan, 2.0], None, "finite values"),
        ([1.0, 2.0, 3.0], [1.0, 1.0], "2 weights do not fit 3 values"),
        ([1.0, 2.0, 3.0], [1.0, -1.0, 1.0], "not negative"),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 0.0], "at least 3 values"),
    ],
)
def test_values_that_cannot_be_fitted_are_refused(
    values: list[float], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_gaussians(np.array(values), 3, weights_N=None if weights is None else np.array(weights))


def test_groups_of_a_summary_are_small_and_hold_all(rng: np.random.Generator) -> None:
    values = np.sort(np.concatenate([rng.normal(size=9_000), rng.normal(50, 1, 1_000)]))
    summary = grouped(SortedValues(values, np.ones(10_000)), 500)
    assert 250 <= summary.size <= 500
    assert summary.weights_N.max() <= 10_000 / 249 + 1
    assert summary.weights_N @ summary.values_N == pytest.approx(values.sum())
    assert not ((summary.values_N > 5) & (summary.values_N < 45)).any(), "no group bridges a gap"


MANY = {
    "noise": lambda rng, n: rng.normal(size=n),
    "a rare mode": lambda rng, n: np.where(rng.random(n) < 0.01, -5, 0) + rng.normal(size=n),
    "two broad modes": lambda rng, n: np.where(rng.random(n) < 0.4, 0, 3.0) + rng.normal(size=n),
    "a heavy tail": lambda rng, n: rng.standard_t(3, n),
    "a long tail": lambda rng, n: rng.lognormal(0, 0.5, n),
}


@pytest.mark.parametrize("name", MANY)
def test_a_histogram_gives_the_exact_fit_to_a_thousandth(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    values = MANY[name](rng, 200_000)
    exact = fit_gaussians(values, 2)
    monkeypatch.setattr(gaussians, "MAX_EXACT_VALUES", 1000)
    streamed = fit_gaussians(values, 2)
    difference = np.abs(parameters(streamed) - parameters(exact)).max()
    print(f"{name}: {difference:.1e}")  # noqa: T201 - shown with pytest -s
    assert difference < 1e-3
    assert streamed.bic == pytest.approx(exact.bic, abs=0.5)


def test_a_streamed_histogram_of_a_known_range_does_as_well(rng: np.random.Generator) -> None:
    entropy = np.clip(
        np.where(rng.random(100_000) < 0.05, 3.0, 5.2) + 0.3 * rng.normal(size=100_000), 0, 6.36
    )
    histogram = ValueHistogram(0, 6.36, 1 << 14)
    for batch in np.array_split(entropy, 10):
        histogram.add(batch)
    values, weights = histogram.values_and_weights()
    difference = parameters(fit_gaussians(values, 2, weights_N=weights)) - parameters(
        fit_gaussians(entropy, 2)
    )
    assert np.abs(difference).max() < 1e-3
