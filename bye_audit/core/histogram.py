"""Histograms of values that arrive in batches, as many at once as there are heads.

Shapes: B = values of a batch, S = series (one histogram each), M = bins.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.expectation import FloatArray


class ValueHistogram:
    """Counts and means of the values in equal bins, for one series of values or for many.

    Parameters
    ----------
    low, high
        Range of the bins. Values outside are counted in the first or last bin, whose mean then
        lies outside as well.
    num_bins
        Bins M of each series.
    shape
        Shape of the series, such as ``(num_layers, num_heads)``; ``()`` for a single one.

    Notes
    -----
    What is kept of a bin is its count and the mean of its values, so that any sum over the values
    is exact and only the spread within a bin is lost: for a mixture fit, variances too small by at
    most a quarter of a squared bin width, a twelfth where the values are spread evenly.

    Examples
    --------
    >>> histogram = ValueHistogram(0.0, 1.0, 4)
    >>> histogram.add(np.array([0.1, 0.2, 0.9, np.nan]))
    >>> values_M, weights_M = histogram.values_and_weights()
    >>> values_M.round(2).tolist(), weights_M.tolist()
    ([0.15, 0.9], [2.0, 1.0])
    """

    def __init__(self, low: float, high: float, num_bins: int, shape: tuple[int, ...] = ()) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a histogram needs a finite range, not [{low}, {high}]")
        if num_bins < 1:
            raise ValueError(f"a histogram needs at least 1 bin, not {num_bins}")
        self.low, self.high, self.num_bins, self.shape = low, high, num_bins, tuple(shape)
        num_series = math.prod(self.shape)
        self._count_SM = np.zeros((num_series, num_bins), dtype=np.int64)
        # Offsets from the bins' centers: their sums keep digits that sums of values would lose.
        self._offset_SM = np.zeros((num_series, num_bins))

    @property
    def bin_width(self) -> float:
        """Width of a bin."""
        return (self.high - self.low) / self.num_bins

    def add(self, values_BS: NDArray[np.floating]) -> None:
        """Count values, NaN excepted.

        Parameters
        ----------
        values_BS
            Shape ``(B, *shape)``: a batch of values for every series.

        Raises
        ------
        ValueError
            If the shape is another or a value is infinite.
        """
        values = np.asarray(values_BS, dtype=np.float64)
        if values.ndim < 1 or values.shape[1:] != self.shape:
            raise ValueError(f"values of shape (B, *{self.shape}) are needed, not {values.shape}")
        if np.isinf(values).any():
            raise ValueError("a histogram needs finite values")
        values_BS = values.reshape(len(values), len(self._count_SM))
        is_value_BS = ~np.isnan(values_BS)
        bin_BS = self._bin_of(np.where(is_value_BS, values_BS, self.low))
        offset_BS = values_BS - self._centers()[bin_BS]
        bin_BS += np.arange(len(self._count_SM)) * self.num_bins
        bins = bin_BS[is_value_BS]
        np.add.at(self._count_SM.reshape(-1), bins, 1)
        np.add.at(self._offset_SM.reshape(-1), bins, offset_BS[is_value_BS])

    def merge(self, other: Self) -> None:
        """Add what another histogram with the same bins has counted."""
        if self._layout() != other._layout():
            raise ValueError(f"histograms differ: {self._layout()} and {other._layout()}")
        self._count_SM += other._count_SM
        self._offset_SM += other._offset_SM

    def num_values(self) -> NDArray[np.int64]:
        """Values counted, one number a series."""
        return np.asarray(self._count_SM.sum(axis=1).reshape(self.shape))

    def values_and_weights(self, *series: int) -> tuple[FloatArray, FloatArray]:
        """Bins of one series that are not empty, as weighted values.

        Parameters
        ----------
        series
            Place of the series in ``shape``.

        Returns
        -------
        values_M, weights_M
            Ascending means of the bins, and their counts.
        """
        row = int(np.ravel_multi_index(series, self.shape)) if self.shape else 0
        count_M = self._count_SM[row]
        used = np.flatnonzero(count_M)
        mean_M = self._centers()[used] + self._offset_SM[row, used] / count_M[used]
        return mean_M, count_M[used].astype(np.float64)

    def _layout(self) -> tuple[float, float, int, tuple[int, ...]]:
        return self.low, self.high, self.num_bins, self.shape

    def _centers(self) -> FloatArray:
        return np.asarray(self.low + (np.arange(self.num_bins) + 0.5) * self.bin_width)

    def _bin_of(self, values: FloatArray) -> NDArray[np.int64]:
        place = (values - self.low) / (self.high - self.low) * self.num_bins
        return np.clip(place, 0, self.num_bins - 1).astype(np.int64)
