"""One climb against scikit-learn's from the same start, and many climbs against one each."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from bye_audit.core.expectation import Components, ascend, climb, mean_log_likelihood

TOL, FLOOR = 1e-5, 1e-3
OPTIONS: dict[str, Any] = {"tol": TOL, "max_steps": 200, "variance_floor": FLOOR}


def random_start(rng: np.random.Generator, num_components: int, num_climbs: int = 1) -> Components:
    shape = (num_climbs, num_components)
    return Components(
        mean_RK=rng.normal(size=shape),
        var_RK=rng.uniform(0.1, 2, shape),
        weight_RK=rng.dirichlet(np.full(num_components, 2.0), num_climbs),
    )


def by_scikit_learn(
    values_N: np.ndarray, start: Components, max_steps: int = 200
) -> GaussianMixture:
    mixture = GaussianMixture(
        start.mean_RK.shape[1],
        covariance_type="diag",
        reg_covar=FLOOR,
        tol=TOL,
        max_iter=max_steps,
        means_init=start.mean_RK[0][:, None],
        weights_init=start.weight_RK[0],
        precisions_init=1 / start.var_RK[0][:, None],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(values_N[:, None])


def assert_same(ours: Components, theirs: GaussianMixture) -> None:
    np.testing.assert_allclose(ours.mean_RK[0], theirs.means_[:, 0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(ours.var_RK[0], theirs.covariances_[:, 0], rtol=1e-7)
    np.testing.assert_allclose(ours.weight_RK[0], theirs.weights_, rtol=1e-7, atol=1e-10)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 100_000),
    num_values=st.integers(4, 400),
    num_components=st.integers(1, 4),
    distance=st.floats(0, 8),
)
def test_the_same_start_gives_scikit_learns_parameters(
    seed: int, num_values: int, num_components: int, distance: float
) -> None:
    rng = np.random.default_rng(seed)
    values_N = rng.normal(size=num_values) + distance * (rng.random(num_values) < 0.2)
    values_N = (values_N - values_N.mean()) / values_N.std()
    start = random_start(rng, num_components)
    theirs = by_scikit_learn(values_N, start)
    ours = climb(values_N, start, **OPTIONS)
    assert ours.num_steps_R[0] == theirs.n_iter_
    assert ours.has_converged_R[0] == theirs.converged_
    assert ours.bound_R[0] == pytest.approx(theirs.lower_bound_, rel=1e-9)
    assert_same(ours.components, theirs)
    assert mean_log_likelihood(values_N, ours.components)[0] == pytest.approx(
        theirs.score(values_N[:, None]), rel=1e-9, abs=1e-9
    )


def test_more_values_than_a_block_give_scikit_learns_parameters(rng: np.random.Generator) -> None:
    values_N = np.where(rng.random(100_003) < 0.1, -2.5, 0.3) + 0.4 * rng.normal(size=100_003)
    start = random_start(rng, 2)
    ours = climb(values_N, start, **OPTIONS)
    assert_same(ours.components, by_scikit_learn(values_N, start))


@settings(max_examples=20)
@given(seed=st.integers(0, 100_000), num_components=st.integers(1, 3))
def test_a_weight_is_a_repetition(seed: int, num_components: int) -> None:
    rng = np.random.default_rng(seed)
    values_N = rng.normal(size=50)
    count_N = rng.integers(0, 4, 50)
    count_N[:2] = 1
    start = random_start(rng, num_components)
    weighted = climb(values_N, start, weights_RN=count_N[None].astype(float), **OPTIONS)
    assert_same(weighted.components, by_scikit_learn(np.repeat(values_N, count_N), start))


def test_climbs_in_company_end_where_they_end_alone(rng: np.random.Generator) -> None:
    values_N = rng.normal(size=3000)
    starts = random_start(rng, 2, num_climbs=7)
    weights_RN = rng.poisson(1.0, (7, 3000)).astype(float)
    together = climb(values_N, starts, weights_RN=weights_RN, **OPTIONS)
    assert len(set(together.num_steps_R)) > 1, "they stop at different times"
    for row in range(7):
        alone = climb(
            values_N,
            starts.take(slice(row, row + 1)),
            weights_RN=weights_RN[row : row + 1],
            **OPTIONS,
        )
        assert alone.num_steps_R[0] == together.num_steps_R[row]
        np.testing.assert_allclose(
            alone.components.mean_RK[0], together.components.mean_RK[row], rtol=1e-9, atol=1e-10
        )


def test_no_step_of_a_climb_loses_likelihood(rng: np.random.Generator) -> None:
    values_N = rng.standard_t(3, 2000)
    values_N /= values_N.std()
    now, bounds = random_start(rng, 3), []
    for _ in range(60):
        ended = climb(values_N, now, tol=0, max_steps=1, variance_floor=0)
        now = ended.components
        bounds.append(ended.bound_R[0])
    assert (np.diff(bounds) > -1e-12).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 100_000), num_components=st.integers(1, 3), distance=st.floats(0, 6))
def test_an_ascent_ends_on_a_top(seed: int, num_components: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    values_N = rng.normal(size=300) + distance * (rng.random(300) < 0.2)
    values_N = (values_N - values_N.mean()) / values_N.std()
    start = random_start(rng, num_components)
    top = ascend(values_N, start, tol=1e-12, max_cycles=3000, variance_floor=FLOOR)
    beyond = climb(values_N, top, tol=0, max_steps=10, variance_floor=FLOOR)
    (height,) = mean_log_likelihood(values_N, top)
    # Where the top is a long flat ridge, steps of less than the tolerance still add up a little.
    assert beyond.bound_R[0] == pytest.approx(height, abs=1e-6)
    assert height > mean_log_likelihood(values_N, start)[0] - 1e-6


def test_an_ascent_ends_where_scikit_learn_would_stay(rng: np.random.Generator) -> None:
    values_N = np.where(rng.random(2000) < 0.3, -1.5, 0.6) + rng.normal(size=2000)
    start = random_start(rng, 2)
    top = ascend(values_N, start, tol=1e-14, max_cycles=1000, variance_floor=FLOOR)
    theirs = by_scikit_learn(values_N, top)
    np.testing.assert_allclose(top.mean_RK[0], theirs.means_[:, 0], atol=1e-6)
    np.testing.assert_allclose(top.var_RK[0], theirs.covariances_[:, 0], atol=1e-6)
    np.testing.assert_allclose(top.weight_RK[0], theirs.weights_, atol=1e-6)
    plain = climb(values_N, start, tol=1e-14, max_steps=20_000, variance_floor=FLOOR)
    np.testing.assert_allclose(top.mean_RK, plain.components.mean_RK, atol=1e-4)
