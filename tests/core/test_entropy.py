"""Entropies against values computed by hand and against their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bye_audit.core.entropy import attention_entropy, literal_entropy, normalized_entropy

ATTENTION_ROWS = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(0, 1)
)


def test_entropy_of_three_known_rows() -> None:
    rows = [[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]
    # By hand: 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2.
    expected = [1.5 * math.log(2), math.log(4), 0.0]
    np.testing.assert_allclose(attention_entropy(rows), expected, rtol=1e-12)


def test_weights_are_renormalised_unless_eq_5_is_taken_literally() -> None:
    # Half of the attention goes to the text: 2 tokens with 0.25 each.
    row = [[0.25, 0.25]]
    np.testing.assert_allclose(attention_entropy(row), [math.log(2)], rtol=1e-12)
    literal = attention_entropy(row, renormalize=False)
    np.testing.assert_allclose(literal, [0.5 * math.log(4)], rtol=1e-12)


def test_tokens_outside_the_mask_do_not_count() -> None:
    entropy = attention_entropy([[0.2, 0.2, 0.6]], [[True, True, False]])
    np.testing.assert_allclose(entropy, [math.log(2)], rtol=1e-12)


def test_no_attention_on_the_image_has_no_entropy() -> None:
    entropy = attention_entropy([[0.0, 0.0], [0.5, 0.5]])
    assert math.isnan(entropy[0])
    assert entropy[1] == pytest.approx(math.log(2))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_impossible_weights_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        attention_entropy([[0.5, bad]])


@given(ATTENTION_ROWS)
def test_entropy_lies_between_zero_and_log_t(attention_NT: np.ndarray) -> None:
    entropy_N = attention_entropy(attention_NT)
    has_mass_N = attention_NT.sum(axis=1) > 0
    assert (np.isnan(entropy_N) == ~has_mass_N).all()
    assert (entropy_N[has_mass_N] >= 0).all()
    assert (entropy_N[has_mass_N] <= math.log(attention_NT.shape[1]) + 1e-9).all()


@given(ATTENTION_ROWS, st.integers(0, 99))
def test_order_of_tokens_does_not_matter(attention_NT: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(attention_NT.shape[1])
    np.testing.assert_allclose(
        attention_entropy(attention_NT), attention_entropy(attention_NT[:, order]), atol=1e-12
    )


def test_normalized_entropy_is_a_share_of_log_t() -> None:
    entropy_NL = np.array([[math.log(16), math.log(4)], [math.log(64), math.log(8)], [0.0, 0.0]])
    shares = normalized_entropy(entropy_NL, [16, 64, 1])
    np.testing.assert_allclose(shares[:2], [[1.0, 0.5], [1.0, 0.5]], rtol=1e-12)
    assert np.isnan(shares[2]).all(), "one token has no spread to speak of"


@given(ATTENTION_ROWS)
def test_eq_5_taken_literally_follows_from_what_is_stored(attention_NT: np.ndarray) -> None:
    # No more than all of the attention.
    attention_NT = attention_NT / max(1.0, attention_NT.sum(axis=1).max())
    stored = literal_entropy(attention_entropy(attention_NT), attention_NT.sum(axis=1))
    computed = attention_entropy(attention_NT, renormalize=False)
    np.testing.assert_allclose(stored, computed, rtol=1e-9, atol=1e-12)
