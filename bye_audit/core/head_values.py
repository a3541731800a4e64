"""One pass over the statistics of every head: exact counts of each, and some samples whole.

Shapes: N = samples, B = samples of a batch, R = samples kept whole, S = statistics,
L = decoder layers, H = heads of a layer.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.detection import Evidence, HeadScores
from bye_audit.core.entropy import normalized_entropy
from bye_audit.core.histogram import ValueHistogram

FloatArray = NDArray[np.float64]

NUM_BINS = 1024
"""Bins of each head's histogram over [0, 1]."""
MAX_WHOLE_SAMPLES = 16_384
"""Samples of which every head's statistics are kept: with 1,024 heads, 64 MiB a statistic."""

_ENTROPY = "image_entropy"
_HELD_BATCH = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadScale:
    """Turns statistics of heads into comparable numbers in [0, 1] and back.

    Parameters
    ----------
    mass_scale
        ``arcsine``: masses become ``2 / pi asin(sqrt(mass))``, in which a proportion has the same
        noise wherever it lies; ``linear``: they stay.
    log_tokens_N
        Largest entropy that each sample's number of image tokens allows, in nats. NaN: no entropy
        of that sample means anything.
    """

    mass_scale: Literal["arcsine", "linear"]
    log_tokens_N: FloatArray

    def apply(
        self, name: str, values: NDArray[np.floating], rows_B: NDArray[np.integer]
    ) -> FloatArray:
        """Scale values of the samples in ``rows_B`` (the first axis); NaN stays."""
        exact: FloatArray = np.asarray(values, dtype=np.float64)
        if name == _ENTROPY:
            exact = exact / self.log_tokens_N[rows_B].reshape(-1, *[1] * (exact.ndim - 1))
        exact = np.clip(exact, 0.0, 1.0)
        if name == _ENTROPY or self.mass_scale == "linear":
            return exact
        return np.asarray(2 / np.pi * np.arcsin(np.sqrt(exact)))

    def restore(self, name: str, scaled: FloatArray) -> FloatArray:
        """Shares of attention, or of the largest entropy, that have these scaled values."""
        if name == _ENTROPY or self.mass_scale == "linear":
            return scaled
        return np.asarray(np.sin(np.pi / 2 * scaled) ** 2)


def make_head_scale(evidence: Evidence, mass_scale: Literal["arcsine", "linear"]) -> HeadScale:
    """Take the numbers of image tokens from the evidence.

    Where they are not known but the same for all, the largest layer entropy seen stands for log T.
    """
    num_samples = len(evidence.entropy_NL)
    if evidence.num_image_tokens_N is not None:
        # 1 nat over log T is the share that it is of the largest entropy.
        share_N = normalized_entropy(np.ones(num_samples), evidence.num_image_tokens_N)
        return HeadScale(mass_scale=mass_scale, log_tokens_N=1.0 / share_N)
    seen = evidence.entropy_NL[np.isfinite(evidence.entropy_NL)]
    largest = float(seen.max()) if seen.size and seen.max() > 0 else 1.0
    return HeadScale(mass_scale=mass_scale, log_tokens_N=np.full(num_samples, largest))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadValues:
    """What one pass keeps of every head's statistics.

    Parameters
    ----------
    statistics, layers
        What was read, in the order of the first two axes.
    histogram
        Scaled values of all samples, one series a statistic, layer and head.
    rows_R
        Rows of the samples kept whole, ascending: all, or a draw.
    values_RSLH
        Their scaled values.
    has_values_N
        Samples with a value of any head.
    """

    statistics: tuple[str, ...]
    layers: tuple[int, ...]
    histogram: ValueHistogram
    rows_R: NDArray[np.int64]
    values_RSLH: NDArray[np.float32]
    has_values_N: NDArray[np.bool_]

    @property
    def num_heads_with_values(self) -> int:
        """Heads that any sample has a value of."""
        return int((self.histogram.num_values().max(axis=0) > 0).sum())


class HeldHeadScores:
    """Statistics of every head that are in memory, as :class:`HeadScores` gives them.

    Parameters
    ----------
    values_NLH
        By name, each (num_samples, num_layers, num_heads); NaN where a head has none.
    """

    def __init__(self, values_NLH: Mapping[str, NDArray[np.floating]]) -> None:
        self._values = dict(values_NLH)
        self.num_layers, self.num_heads = next(iter(self._values.values())).shape[1:]

    def take(self, rows: NDArray[np.integer]) -> HeldHeadScores:
        """Statistics of some of the samples."""
        return HeldHeadScores({name: values[rows] for name, values in self._values.items()})

    def batches(
        self, names: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]]:
        """Give all samples in batches of 4,096."""
        num_samples = len(next(iter(self._values.values())))
        for begin in range(0, num_samples, _HELD_BATCH):
            rows_B = np.arange(begin, min(begin + _HELD_BATCH, num_samples))
            yield rows_B, {name: self._values[name][rows_B].astype(np.float32) for name in names}


def read_head_values(
    heads: HeadScores,
    scale: HeadScale,
    *,
    statistics: Sequence[str],
    layers: Sequence[int],
    num_samples: int,
    max_whole_samples: int = MAX_WHOLE_SAMPLES,
    seed: int = 0,
) -> HeadValues:
    """Go through all samples once.

    Parameters
    ----------
    heads
        Where they are read.
    scale
        Into [0, 1].
    statistics, layers
        Which to keep.
    num_samples
        Rows N of the evidence.
    max_whole_samples
        Above this many a draw without replacement is kept whole.
    seed
        Of that draw.

    Returns
    -------
    HeadValues
        Memory does not grow with the number of samples.
    """
    rows_R = np.arange(num_samples)
    if num_samples > max_whole_samples:
        draw = np.random.default_rng(seed).choice(num_samples, max_whole_samples, replace=False)
        rows_R = np.sort(draw)
    shape = (len(statistics), len(layers), heads.num_heads)
    histogram = ValueHistogram(0.0, 1.0, NUM_BINS, shape)
    values_RSLH = np.full((rows_R.size, *shape), np.nan, dtype=np.float32)
    has_values_N = np.zeros(num_samples, dtype=bool)
    for rows_B, batch in heads.batches(statistics):
        values_BSLH = np.stack(
            [scale.apply(name, batch[name][:, list(layers)], rows_B) for name in statistics], axis=1
        )
        histogram.add(values_BSLH)
        has_values_N[rows_B] = np.isfinite(values_BSLH).any(axis=(1, 2, 3))
        place_B = np.minimum(np.searchsorted(rows_R, rows_B), max(rows_R.size - 1, 0))
        is_kept_B = rows_R[place_B] == rows_B
        values_RSLH[place_B[is_kept_B]] = values_BSLH[is_kept_B]
    return HeadValues(
        statistics=tuple(statistics),
        layers=tuple(layers),
        histogram=histogram,
        rows_R=rows_R,
        values_RSLH=values_RSLH,
        has_values_N=has_values_N,
    )
