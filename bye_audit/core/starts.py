"""Where the climbs of a mixture fit begin: hard splits of the sorted values.

Shapes: R = starts, K = components, N = values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.expectation import Components, FloatArray

Tail = Literal["low", "high", "both"]

TAIL_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the values at one end that a fit is started from: a rare mode is missed otherwise."""

_NUM_RANDOM_STARTS = 3
_MAX_LLOYD_STEPS = 100


class SortedValues:
    """Sorted, weighted values whose parts can be described without going through them again.

    Parameters
    ----------
    values_N
        Ascending, standardised.
    weights_N
        How often each counts; positive.
    """

    def __init__(self, values_N: FloatArray, weights_N: FloatArray) -> None:
        self.values_N = values_N
        self.weights_N = weights_N
        moments = (weights_N, weights_N * values_N, weights_N * values_N**2)
        self._sums_3N = np.stack([np.concatenate([[0.0], np.cumsum(part)]) for part in moments])

    @property
    def size(self) -> int:
        """Distinct entries, whatever their weights."""
        return self.values_N.size

    def cut_at(self, share: float) -> int:
        """Entry at which this share of the weight lies below."""
        sums_N = self._sums_3N[0]
        return int(np.searchsorted(sums_N, share * sums_N[-1] * (1 - 1e-12)))

    def weight_up_to(self, edges_E: FloatArray) -> FloatArray:
        """Weight of the values up to and including each edge."""
        return np.asarray(self._sums_3N[0][np.searchsorted(self.values_N, edges_E, side="right")])

    def parts(self, cuts: NDArray[np.integer]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weight, mean and variance of the parts between cuts, none of which may be empty."""
        edges = np.concatenate([[0], cuts, [self.size]])
        weight_K, first_K, second_K = np.diff(self._sums_3N[:, edges], axis=1)
        mean_K = first_K / weight_K
        return weight_K, mean_K, np.maximum(second_K / weight_K - mean_K**2, 0.0)


def make_starts(
    values: SortedValues, num_components: int, *, tail: Tail, seed: int, variance_floor: float
) -> tuple[list[str], Components]:
    """Split the values in several ways and describe the parts.

    Parameters
    ----------
    values
        To be split.
    num_components
        Parts K of a split, at least 2.
    tail
        Ends at which a rare component is looked for.
    seed
        Of the k-means++ starts.
    variance_floor
        Added to each part's variance.

    Returns
    -------
    list of str
        Name of each start; at least one.
    Components
        The starts.
    """
    names, starts = [], []
    for name, cuts in _splits(values, num_components, tail, seed):
        edges = np.concatenate([[0], cuts, [values.size]])
        if (np.diff(edges) > 0).all():
            names.append(name)
            starts.append(values.parts(cuts))
    if not starts:
        # Few distinct values, each many times: no split by value has a value in every part.
        names.append("equal parts")
        starts.append(values.parts(np.arange(1, num_components) * values.size // num_components))
    weight_RK, mean_RK, var_RK = (np.array(part) for part in zip(*starts, strict=True))
    return names, Components(
        mean_RK=mean_RK,
        var_RK=var_RK + variance_floor,
        weight_RK=weight_RK / weight_RK.sum(axis=1, keepdims=True),
    )


def _splits(
    values: SortedValues, num_components: int, tail: Tail, seed: int
) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """Name ways to split the values, each as the entries at which a part begins."""
    yield "kmeans", _kmeans(values, 0, values.size, num_components)
    rng = np.random.default_rng(seed)
    for number in range(_NUM_RANDOM_STARTS):
        yield f"k-means++ {number}", _nearest(values, _spread_centers(values, num_components, rng))
    for share in TAIL_SHARES:
        low, high = values.cut_at(share), values.cut_at(1 - share)
        # A single entry is no group.
        if not 2 <= low <= values.size - 2 or not 2 <= high <= values.size - 2:
            continue
        rest = num_components - 1
        if tail in ("low", "both"):
            yield f"low tail {share:.1%}", np.r_[low, _kmeans(values, low, values.size, rest)]
        if tail in ("high", "both"):
            yield f"high tail {share:.1%}", np.r_[_kmeans(values, 0, high, rest), high]
        if tail == "both" and rest >= 2 and low < high:
            middle = _kmeans(values, low, high, rest - 1)
            yield f"both tails {share:.1%}", np.r_[low, middle, high]


def two_means_cut(values: SortedValues) -> int:
    """Entry at which the upper of the two parts with the least variance within begins."""
    return int(_kmeans(values, 0, values.size, 2)[0])


def _kmeans(values: SortedValues, begin: int, end: int, num_parts: int) -> NDArray[np.integer]:
    """Cuts of a stretch by Lloyd's algorithm from equal parts; by the best cut if it is one."""
    if num_parts == 1:
        return np.empty(0, dtype=np.int64)
    size_N, sum_N, _ = values._sums_3N[:, begin : end + 1]
    size_N, sum_N = size_N - size_N[0], sum_N - sum_N[0]
    if num_parts == 2:
        low, high = size_N[1:-1], size_N[-1] - size_N[1:-1]
        if not low.size:
            return np.array([begin])
        # Least variance within is most variance between.
        between_N = (sum_N[1:-1] / low - (sum_N[-1] - sum_N[1:-1]) / high) ** 2 * low * high
        return np.array([begin + 1 + int(between_N.argmax())])
    stretch_N = values.values_N[begin:end]
    shares = np.arange(1, num_parts) / num_parts
    cuts = np.searchsorted(size_N, shares * size_N[-1])
    for _ in range(_MAX_LLOYD_STEPS):
        edges = np.concatenate([[0], cuts, [end - begin]])
        weight_K = np.diff(size_N[edges])
        if (weight_K <= 0).any():
            break
        center_K = np.diff(sum_N[edges]) / weight_K
        moved = np.searchsorted(stretch_N, (center_K[1:] + center_K[:-1]) / 2)
        if (moved == cuts).all():
            break
        cuts = moved
    return np.asarray(begin + cuts)


def _spread_centers(values: SortedValues, num_centers: int, rng: np.random.Generator) -> FloatArray:
    """Draw k-means++ centers: each with a chance that grows with the square of its distance."""
    chance_N = values.weights_N
    centers: list[float] = []
    for _ in range(num_centers):
        drawn = rng.random() * chance_N.sum()
        entry = min(int(np.searchsorted(np.cumsum(chance_N), drawn)), values.size - 1)
        centers.append(float(values.values_N[entry]))
        distance_N = np.abs(values.values_N[:, None] - centers).min(axis=1)
        chance_N = values.weights_N * distance_N**2
    return np.sort(centers)


def _nearest(values: SortedValues, center_K: FloatArray) -> NDArray[np.integer]:
    """Cuts that give each value to the nearest center."""
    return np.searchsorted(values.values_N, (center_K[1:] + center_K[:-1]) / 2)
