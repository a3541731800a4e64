"""Heads as voters: agreement, and who sits together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score
from support.heads import kinds

from bye_audit.core.confounders import fit_stratum_scale
from bye_audit.core.dawid_skene import NO_VOTE
from bye_audit.core.gaussians import GaussianFit
from bye_audit.core.groups import TwoGroups
from bye_audit.core.stability import cohens_kappa
from bye_audit.core.voting import (
    HeadVoter,
    form_panels,
    kappa_matrix,
    kappa_with,
    panel_score,
    support,
)

VOTES = arrays(
    np.int8, st.tuples(st.integers(2, 40), st.integers(1, 4)), elements=st.sampled_from([0, 1])
)


def make_voter(head: int, *, statistic: str = "image_mass", is_low: bool = False) -> HeadVoter:
    """A head whose majority lies at 0 and whose minority at 1, or the other way round."""
    mean_K = np.array([-1.0, 0.0]) if is_low else np.array([0.0, 1.0])
    fit = GaussianFit(
        mean_K=mean_K,
        var_K=np.full(2, 0.01),
        weight_K=np.array([0.1, 0.9]) if is_low else np.array([0.9, 0.1]),
        mean_log_likelihood=0.0,
        num_values=100,
        spread=1.0,
        start="made up",
    )
    groups = TwoGroups(fit=fit, num_low=1, overlap=0.01, delta_bic=99)
    return HeadVoter(statistic=statistic, layer=3, head=head, groups=groups)


@given(votes_RV=VOTES)
def test_kappa_is_that_of_two_other_implementations(votes_RV: np.ndarray) -> None:
    found = kappa_matrix(votes_RV)
    for first in range(votes_RV.shape[1]):
        for second in range(votes_RV.shape[1]):
            a, b = votes_RV[:, first], votes_RV[:, second]
            if np.unique(a).size > 1 or np.unique(b).size > 1:
                assert found[first, second] == pytest.approx(cohens_kappa(a == 1, b == 1))
                assert found[first, second] == pytest.approx(cohen_kappa_score(a, b))
            else:
                assert found[first, second] == 0, "no variation, nothing beyond chance"


def test_votes_not_cast_do_not_count() -> None:
    votes_RV = np.array([[1, 1], [0, 0], [1, NO_VOTE], [NO_VOTE, 1], [0, NO_VOTE]])
    np.testing.assert_allclose(kappa_matrix(votes_RV), 1)
    assert kappa_with(votes_RV, np.array([True, False, True, True, False])).tolist() == [1, 1]


def test_those_who_vote_alike_sit_together(rng: np.random.Generator) -> None:
    one, other = rng.random(500) < 0.1, rng.random(500) < 0.3
    votes_RV = np.stack([one, other, one, other, rng.random(500) < 0.2], axis=1).astype(np.int8)
    voters = [make_voter(head) for head in range(5)]
    assert form_panels(voters, votes_RV, min_kappa=0.4) == [[0, 2], [1, 3], [4]]


def test_a_head_has_one_seat_whatever_it_is_looked_at_by(rng: np.random.Generator) -> None:
    votes_R = (rng.random(200) < 0.2).astype(np.int8)
    voters = [make_voter(1), make_voter(1, statistic="text_mass"), make_voter(2)]
    assert form_panels(voters, np.stack([votes_R] * 3, axis=1), min_kappa=0.4) == [[0, 2]]
    silent = np.zeros((200, 3), dtype=np.int8)
    assert form_panels(voters, silent, min_kappa=0.4) == [[0], [1], [2]]


def test_support_counts_members_that_the_witness_means_too() -> None:
    members, witness = np.repeat([True, False], [10, 90]), np.repeat([True, False], [40, 60])
    assert support(members, witness) == pytest.approx(1), "more suspects do not count against it"
    assert support(~members, witness) < 0
    assert support(members, np.zeros(100, dtype=bool)) == 0
    assert support(members, np.ones(100, dtype=bool)) == 0
    assert support(np.zeros(100, dtype=bool), witness) == 0
    half = np.repeat([True, False, False, True], [5, 5, 45, 45])
    assert support(members, half) == pytest.approx(0)


@pytest.mark.parametrize("is_low", [False, True])
def test_votes_and_distances_run_from_the_many_to_the_few(is_low: bool) -> None:
    voter = make_voter(0, is_low=is_low)
    values = np.array([0.0, 0.1, 0.9, 1.0, 9.0, -9.0, np.nan]) * (-1 if is_low else 1)
    assert voter.vote(values, threshold=0.5).tolist() == [0, 0, 1, 1, 1, 0, NO_VOTE]
    distance = voter.distance(values)
    np.testing.assert_allclose(distance[:6], [0, 0.1, 0.9, 1, 1.5, -0.5], atol=1e-9)


def test_a_voter_within_strata_compares_like_with_like() -> None:
    codes_N = np.arange(100) % 2
    values_N = np.where(codes_N == 1, 5.0, 0.0) + np.linspace(0, 1, 100)
    scale = fit_stratum_scale(values_N, kinds(codes_N), min_size=5)
    voter = make_voter(0)
    within = HeadVoter(
        statistic="image_mass",
        layer=3,
        head=0,
        groups=voter.groups,
        confounder="question",
        stratum_scale=scale,
    )
    compared = within.compare(values_N, codes_N)
    assert np.median(compared[codes_N == 0]) == pytest.approx(0)
    assert np.median(compared[codes_N == 1]) == pytest.approx(0)
    np.testing.assert_array_equal(voter.compare(values_N), values_N)
    assert within.to_json()["within"] == "question"


@given(st.integers(0, 99))
def test_the_panels_score_is_the_mean_of_what_is_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = rng.normal(size=(20, 3))
    distances[rng.random((20, 3)) < 0.4] = np.nan
    is_empty = np.isnan(distances).all(axis=1)
    score = panel_score(distances, rng.random((20, 5)))
    assert np.isnan(score[is_empty]).all()
    oracle = [np.mean([v for v in row if not np.isnan(v)]) for row in distances[~is_empty]]
    np.testing.assert_allclose(score[~is_empty], oracle, atol=1e-6)


def test_only_copies_of_one_sample_have_the_same_score() -> None:
    same = np.ones((3, 4))
    values = np.array([[0.1, 0.2], [0.1, 0.2], [0.1, 0.3]])
    score = panel_score(same, values)
    assert score[0] == score[1] != score[2]
