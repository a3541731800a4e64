"""Histograms of batches against histograms of the whole, for one series and for many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bye_audit.core.histogram import ValueHistogram


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    num_values=st.integers(0, 300),
    num_bins=st.integers(1, 40),
    num_batches=st.integers(1, 5),
)
def test_counts_are_numpys_and_batches_do_not_matter(
    seed: int, num_values: int, num_bins: int, num_batches: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(2, 5, num_values)
    histogram = ValueHistogram(2, 5, num_bins)
    for batch in np.array_split(rng.permutation(values), num_batches):
        histogram.add(batch)
    counts, _ = np.histogram(values, num_bins, (2, 5))
    means, weights = histogram.values_and_weights()
    np.testing.assert_array_equal(weights, counts[counts > 0])
    assert (np.diff(means) > 0).all()
    # Sums over the bins are sums over the values.
    assert weights @ means == pytest.approx(values.sum())
    assert histogram.num_values() == num_values


def test_every_head_has_its_own_histogram(rng: np.random.Generator) -> None:
    values_BLH = rng.normal(size=(500, 3, 4))
    values_BLH[rng.random(values_BLH.shape) < 0.1] = np.nan
    histogram = ValueHistogram(-3, 3, 64, (3, 4))
    for batch in np.array_split(values_BLH, 7):
        histogram.add(batch)
    assert histogram.num_values().shape == (3, 4)
    for layer in range(3):
        for head in range(4):
            column = values_BLH[:, layer, head]
            alone = ValueHistogram(-3, 3, 64)
            alone.add(column)
            for ours, theirs in zip(
                histogram.values_and_weights(layer, head), alone.values_and_weights(), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
            assert histogram.num_values()[layer, head] == np.isfinite(column).sum()


def test_merged_histograms_are_the_histogram_of_all(rng: np.random.Generator) -> None:
    values = rng.normal(size=1000)
    whole, first, second = (ValueHistogram(-1, 1, 32) for _ in range(3))
    whole.add(values)
    first.add(values[:300])
    second.add(values[300:])
    first.merge(second)
    for ours, theirs in zip(first.values_and_weights(), whole.values_and_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="histograms differ"):
        first.merge(ValueHistogram(-1, 1, 31))


def test_values_out_of_range_keep_their_size() -> None:
    histogram = ValueHistogram(0, 1, 10)
    histogram.add(np.array([-5.0, 0.5, 7.0, 9.0]))
    means, weights = histogram.values_and_weights()
    np.testing.assert_allclose(means, [-5, 0.5, 8])
    np.testing.assert_allclose(weights, [1, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 1, 8), "finite range"), ((0, np.inf, 8), "finite range"), ((0, 1, 0), "at least 1 bin")],
)
def test_impossible_bins_are_refused(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValueHistogram(*arguments)


def test_values_that_cannot_be_counted_are_refused() -> None:
    histogram = ValueHistogram(0, 1, 8, (2,))
    with pytest.raises(ValueError, match="shape"):
        histogram.add(np.zeros(4))
    with pytest.raises(ValueError, match="finite"):
        histogram.add(np.full((1, 2), np.inf))
