"""The three ways to split samples by a score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from bye_audit.config import DetectConfig
from bye_audit.core.clustering import bye_suspicion, split_low
from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), num_values=st.integers(4, 200), rate=st.floats(0.05, 0.5))
def test_two_means_are_no_worse_than_scikit_learns(seed: int, num_values: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(num_values) < rate, -4, 0) + rng.normal(size=num_values)
    split = split_low(values, fit_two_gaussians(values).mixture, DetectConfig(clustering="kmeans"))
    is_low = split.suspicion_of(values) > 0.5
    parts = [values[is_low], values[~is_low]]
    theirs = KMeans(2, n_init=10, random_state=0).fit(values[:, None])
    assert sum(((part - part.mean()) ** 2).sum() for part in parts) <= theirs.inertia_ * (1 + 1e-9)
    assert split.weight == pytest.approx(is_low.mean())
    assert split.mixture is not None
    assert split.mixture.mean_low == pytest.approx(parts[0].mean())


def test_a_threshold_suspects_what_is_below_and_knows_no_chance() -> None:
    values = np.array([4.4, 4.5, 4.6, np.nan])
    config = DetectConfig(clustering="threshold")
    split = split_low(values[:3], fit_two_gaussians(values[:3]).mixture, config)
    np.testing.assert_array_equal(split.suspicion_of(values), [1, 0, 0, np.nan])
    assert (split.cut, split.mixture) == (4.5, None)
    assert split.weight == pytest.approx(1 / 3)


def test_weights_count_as_repetitions(rng: np.random.Generator) -> None:
    values, count = rng.normal(size=50), rng.integers(0, 4, 50)
    repeated = np.repeat(values, count)
    config = DetectConfig(clustering="kmeans")
    mixture = fit_two_gaussians(values).mixture
    weighted = split_low(values, mixture, config, weights_N=count.astype(float))
    assert weighted.cut == pytest.approx(split_low(repeated, mixture, config).cut)


def test_only_a_guarded_mixture_spares_the_far_high_side() -> None:
    mixture = TwoGaussians(mean_low=2, mean_high=3, var_low=1, var_high=0.01, weight_low=0.2)
    score_N = np.array([1.0, 5.0])
    assert bye_suspicion(mixture, score_N)[1] == 0
    assert bye_suspicion(mixture, score_N, is_guarded=False)[1] > 0.99
