"""Resampled mixtures against a real bootstrap, agreement against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, jaccard_score

from bye_audit.core.bsi import bimodal_separation_index
from bye_audit.core.mixture import fit_two_gaussians
from bye_audit.core.stability import (
    agreement,
    cohens_kappa,
    jaccard,
    judged_rows,
    resample_mixtures,
    spread_of,
)

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


def two_modes(rng: np.random.Generator, num_values: int, rate: float = 0.1) -> np.ndarray:
    is_low = rng.random(num_values) < rate
    return np.where(is_low, rng.normal(-4, 0.7, num_values), rng.normal(size=num_values))


@pytest.mark.parametrize("num_values", [300, 5000])
def test_separations_spread_as_in_a_real_bootstrap(
    rng: np.random.Generator, num_values: int
) -> None:
    values = two_modes(rng, num_values)
    ours = resample_mixtures(values, num_resamples=150, seed=1).separations()
    draws = [rng.choice(values, num_values) for _ in range(60)]
    theirs = np.array([bimodal_separation_index(fit_two_gaussians(d).mixture) for d in draws])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.5 * theirs.std())
    assert ours.std() == pytest.approx(theirs.std(), rel=0.4)


def test_resampled_evidence_for_two_modes_spreads_around_that_of_all(
    rng: np.random.Generator,
) -> None:
    values = two_modes(rng, 2000)
    fit = fit_two_gaussians(values)
    delta_bic_B = resample_mixtures(values, num_resamples=100, seed=0).delta_bic_B
    low, high = np.quantile(delta_bic_B, [0.01, 0.99])
    assert low < fit.delta_bic < high


@pytest.mark.parametrize("shift", [0.0, 3.7, 100.0])
def test_a_resample_without_the_few_values_that_differ_has_one_mode(shift: float) -> None:
    """Its variance is a difference of rounded sums, and may come out below 0."""
    values = np.full(3000, shift)
    values[:2] += [1.0, 2.5]
    delta_bic_B = resample_mixtures(values, num_resamples=60, seed=0).delta_bic_B
    assert np.isfinite(delta_bic_B).all()
    # About one resample in seven has neither.
    assert 0 < (delta_bic_B < 0).sum() < 60


def test_one_seed_gives_one_answer_and_another_gives_another(rng: np.random.Generator) -> None:
    values = two_modes(rng, 400)
    first, again, other = (
        resample_mixtures(values, num_resamples=20, seed=seed).separations() for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_groups_do_not_bridge_far_modes(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.normal(4.3, 0.3, 3600), rng.normal(16, 0.3, 400)])
    separations = resample_mixtures(values, num_resamples=50, seed=0).separations()
    exact = bimodal_separation_index(fit_two_gaussians(values).mixture)
    assert separations.mean() == pytest.approx(exact, rel=0.03)


def test_constant_values_resample_to_themselves() -> None:
    resampled = resample_mixtures(np.full(40, 2.0), num_resamples=20, seed=0)
    assert resampled.mixture(7).mean_low == 2.0
    assert (resampled.separations() == 0).all()
    assert (resampled.delta_bic_B <= 0).all()


@settings(max_examples=100)
@given(FLAGS)
def test_kappa_and_jaccard_are_scikit_learns(flags: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*flags, strict=True))
    if (first == second).all():
        assert cohens_kappa(first, second) == jaccard(first, second) == 1.0
        return
    assert cohens_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert jaccard(first, second) == pytest.approx(jaccard_score(first, second))
    assert cohens_kappa(first, second) == pytest.approx(cohens_kappa(second, first))


def test_only_rules_that_suspect_somebody_agree_or_disagree() -> None:
    some, same, none = np.array([1, 1, 0, 0], bool), np.array([1, 1, 0, 0], bool), np.zeros(4, bool)
    assert agreement({"bye": some, "plausibility": same, "tcap": none}) == {"bye/plausibility": 1.0}
    assert agreement({"bye": some, "tcap": none}) == {}


def test_many_samples_are_judged_by_some_of_them() -> None:
    assert judged_rows(50, 0).tolist() == list(range(50))
    rows = judged_rows(250_000, 0)
    assert rows.size == np.unique(rows).size == 100_000


def test_the_spread_of_a_statistic() -> None:
    spread = spread_of(np.arange(101.0))
    assert spread == {"mean": 50.0, "q05": 5.0, "q95": 95.0}
