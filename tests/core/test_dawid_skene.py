"""Votes of witnesses whose errors are known, and the likelihood by other means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.stats import bernoulli

from bye_audit.core.dawid_skene import (
    MAX_WITNESSES,
    NO_VOTE,
    DawidSkene,
    decode_votes,
    encode_votes,
    fit_dawid_skene,
)

SENSITIVITY = np.array([0.9, 0.7, 0.8, 0.95])
SPECIFICITY = np.array([0.97, 0.9, 0.99, 0.8])
VOTES = arrays(
    np.int8, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.sampled_from([-1, 0, 1])
)


def draw_votes(
    rng: np.random.Generator, num_samples: int, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    is_positive = rng.random(num_samples) < prevalence
    chance_NW = np.where(is_positive[:, None], SENSITIVITY, 1 - SPECIFICITY)
    return (rng.random(chance_NW.shape) < chance_NW).astype(np.int8), is_positive


def log_likelihood(
    votes_NW: np.ndarray, prevalence: float, sensitivity_W: np.ndarray, specificity_W: np.ndarray
) -> float:
    """Sum over both classes sample by sample, without logarithms of sums."""
    total = 0.0
    for row_W in votes_NW:
        cast = row_W != NO_VOTE
        positive = bernoulli.pmf(row_W[cast], sensitivity_W[cast]).prod()
        negative = bernoulli.pmf(row_W[cast], 1 - specificity_W[cast]).prod()
        total += float(np.log(prevalence * positive + (1 - prevalence) * negative))
    return total


def test_known_errors_are_found(rng: np.random.Generator) -> None:
    votes_NW, is_positive = draw_votes(rng, 60_000, 0.1)
    fit = fit_dawid_skene(votes_NW)
    assert fit.has_converged
    assert fit.prevalence == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(fit.sensitivity_W, SENSITIVITY, atol=0.02)
    np.testing.assert_allclose(fit.specificity_W, SPECIFICITY, atol=0.01)
    chance_N = fit.posterior(votes_NW)
    assert chance_N.mean() == pytest.approx(is_positive.mean(), abs=0.01), "calibrated as a whole"
    majority = votes_NW.mean(axis=1) > 0.5
    assert ((chance_N > 0.5) == is_positive).mean() > (majority == is_positive).mean()


def test_the_objective_is_the_likelihood_of_the_votes(rng: np.random.Generator) -> None:
    votes_NW, _ = draw_votes(rng, 200, 0.3)
    votes_NW[rng.random(votes_NW.shape) < 0.2] = NO_VOTE
    fit = fit_dawid_skene(votes_NW, smoothing=0)
    by_hand = log_likelihood(votes_NW, fit.prevalence, fit.sensitivity_W, fit.specificity_W)
    assert fit.objective[-1] == pytest.approx(by_hand, rel=1e-10)


def test_no_other_errors_explain_the_votes_better(rng: np.random.Generator) -> None:
    votes_NW, _ = draw_votes(rng, 400, 0.25)
    fit = fit_dawid_skene(votes_NW, smoothing=0, tol=1e-13, max_steps=20_000)
    patterns, counts = np.unique(votes_NW, axis=0, return_counts=True)

    def loss(theta: np.ndarray) -> float:
        share = 1 / (1 + np.exp(-theta))
        return -sum(
            float(count) * log_likelihood(row[None], share[0], share[1:5], share[5:])
            for row, count in zip(patterns, counts, strict=True)
        )

    start = np.concatenate([[0.25], SENSITIVITY, SPECIFICITY])
    best = minimize(loss, np.log(start / (1 - start)), method="L-BFGS-B")
    assert fit.objective[-1] >= -best.fun - 1e-3


@given(votes_NW=VOTES, smoothing=st.sampled_from([0.0, 0.5, 2.0]))
def test_no_step_makes_the_votes_less_likely(votes_NW: np.ndarray, smoothing: float) -> None:
    fit = fit_dawid_skene(votes_NW, smoothing=smoothing)
    steps = np.diff(fit.objective)
    assert (steps >= -1e-8 * max(1.0, abs(fit.objective[0]))).all()
    assert np.isfinite(fit.objective[-1])
    chance_N = fit.posterior(votes_NW)
    assert ((chance_N >= 0) & (chance_N <= 1)).all()


@given(votes_NW=VOTES, seed=st.integers(0, 99))
def test_order_of_samples_and_counting_them_do_not_matter(votes_NW: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(votes_NW))
    straight = fit_dawid_skene(votes_NW).posterior(votes_NW)
    shuffled = fit_dawid_skene(votes_NW[order]).posterior(votes_NW[order])
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-9)
    patterns, counts = np.unique(votes_NW, axis=0, return_counts=True)
    counted = fit_dawid_skene(patterns, weights_N=counts)
    np.testing.assert_allclose(counted.posterior(votes_NW), straight, atol=1e-9)


def test_posterior_is_bayes_by_hand() -> None:
    model = DawidSkene(
        prevalence=0.2,
        sensitivity_W=np.array([0.9, 0.6]),
        specificity_W=np.array([0.8, 0.7]),
        objective=(),
        has_converged=True,
    )
    # 0.2 * 0.9 * 0.4 against 0.8 * 0.2 * 0.7
    assert model.posterior(np.array([[1, 0]]))[0] == pytest.approx(0.072 / (0.072 + 0.112))
    assert model.posterior(np.array([[NO_VOTE, NO_VOTE]]))[0] == pytest.approx(0.2)
    np.testing.assert_allclose(model.informedness, [0.7, 0.3])


def test_a_pattern_never_seen_has_a_posterior() -> None:
    fit = fit_dawid_skene(np.array([[1, 1, 1]] * 20 + [[0, 0, 0]] * 180))
    every = np.array(list(itertools.product([-1, 0, 1], repeat=3)))
    assert np.isfinite(fit.log_odds(every)).all()


@given(votes_NW=VOTES)
def test_votes_come_out_as_they_went_in(votes_NW: np.ndarray) -> None:
    codes_N = encode_votes(votes_NW)
    np.testing.assert_array_equal(decode_votes(codes_N, votes_NW.shape[1]), votes_NW)


def test_impossible_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 0 or NO_VOTE"):
        fit_dawid_skene(np.array([[2, 0]]))
    with pytest.raises(ValueError, match="samples and witnesses"):
        fit_dawid_skene(np.empty((0, 3), dtype=int))
    with pytest.raises(ValueError, match="weights"):
        fit_dawid_skene(np.array([[1, 0]]), weights_N=np.array([-1.0]))
    with pytest.raises(ValueError, match="witnesses"):
        encode_votes(np.zeros((2, MAX_WITNESSES + 1), dtype=int))
