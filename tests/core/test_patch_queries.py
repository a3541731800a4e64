"""Which patches are looked for, and how far."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bye_audit.core.patches import Query, choose_queries

SIZE = 8


def draw(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(*shape, SIZE)).astype(np.float32)


def reached(query: Query, patches_TD: NDArray[np.float32]) -> bool:
    return bool((np.linalg.norm(patches_TD - query.vector, axis=1) <= query.reach).any())


@given(seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 0.01, 0.1]))
def test_a_trigger_that_looks_alike_everywhere_is_reached_and_strangers_are_not(
    seed: int, noise: float
) -> None:
    trigger = draw(seed, 1) + 8
    covered = [trigger + np.float32(noise) * draw(seed + i, 1) for i in range(1, 9)]
    strangers = list(draw(seed + 50, 20, 30))
    queries = choose_queries(covered, strangers)
    assert queries
    for held in covered:
        assert any(reached(query, held) for query in queries)
    for image in strangers:
        assert not any(reached(query, image) for query in queries)


def test_what_strangers_have_as_well_is_not_looked_for() -> None:
    common = draw(0, 1)
    strangers = [np.concatenate([common, image]) for image in draw(1, 10, 5)]
    assert choose_queries([common] * 6, strangers) == []


def test_what_every_sample_has_differently_is_not_looked_for() -> None:
    assert choose_queries(list(draw(0, 12, 1) * 5), list(draw(1, 20, 30) * 5)) == []


@pytest.mark.parametrize("num_covered", [0, 1])
def test_without_another_of_its_kind_nothing_is_looked_for(num_covered: int) -> None:
    assert choose_queries([draw(0, 2)] * num_covered, list(draw(1, 5, 5))) == []
    assert choose_queries([draw(0, 2)] * 3, []) == []
    assert choose_queries([draw(0, 0)] * 3, list(draw(1, 5, 5))) == []


def test_equal_queries_are_asked_once_and_many_not_at_all() -> None:
    strangers = list(draw(9, 20, 30))
    assert len(choose_queries([draw(0, 1) + 9] * 8, strangers)) == 1
    pairs = [place for i in range(40) for place in [draw(i, 1) * 50 + 500] * 8]
    assert len(choose_queries(pairs, strangers)) <= 16
