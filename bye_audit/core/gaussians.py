"""Gaussian mixtures of any number of components in one dimension, fitted from several starts.

Shapes: N = values, K = components.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.expectation import (
    Components,
    FloatArray,
    ascend,
    climb,
    mean_log_likelihood,
)
from bye_audit.core.histogram import ValueHistogram
from bye_audit.core.starts import SortedValues, Tail, make_starts

VARIANCE_FLOOR = 1e-3
"""Added to each component's variance, in units of all values' variance."""
MAX_EXACT_VALUES = 1_000_000
"""Above this many values a fit sees a histogram of them instead."""
NUM_BINS = 1 << 16
"""Bins of that histogram."""
SCREENED_VALUES = 2_048
"""Entries of the summary on which the starts compete."""

# Enough to tell the starts apart; the winner goes on to the top.
_SCREENING_STEPS = 100
_SCREENING_TOL = 1e-5
_FINAL_CYCLES = 1_000
_FINAL_TOL = 1e-12
# A step on all of many values is dear: nearly all of the way there is found on groups of them.
_GROUPED_VALUES = 1 << 15
_FEW_CYCLES = 50
# A likelihood nearer than this is the same up to rounding: the first start keeps the win.
_SAME_LIKELIHOOD = 1e-9
# Relative to the values' own size: below this, differences are rounding and not a distribution.
_CONSTANT_RELATIVE_SPREAD = 1e-6
_HISTOGRAM_BATCH = 1 << 20
_SKLEARN_TOL, _SKLEARN_STEPS, _SKLEARN_FLOOR = 1e-3, 100, 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GaussianFit:
    """A fitted mixture, its components ordered by mean.

    Parameters
    ----------
    mean_K, var_K
        Means, ascending, and variances, in the unit of the values and in that unit squared.
    weight_K
        Shares of the components; they add to 1.
    mean_log_likelihood
        Of a value under the mixture; 0 for constant values, where there is no density.
    num_values
        Values the fit stands for: the sum of their weights.
    spread
        Standard deviation of all values.
    start
        Name of the start that won.
    """

    mean_K: FloatArray
    var_K: FloatArray
    weight_K: FloatArray
    mean_log_likelihood: float
    num_values: float
    spread: float
    start: str

    @property
    def num_components(self) -> int:
        """Components K."""
        return self.mean_K.size

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same up to rounding, so that there was nothing to fit."""
        return self.start == "constant"

    @property
    def num_parameters(self) -> int:
        """Free parameters: a mean and a variance each, and all shares but one."""
        return 3 * self.num_components - 1

    @property
    def bic(self) -> float:
        """Bayesian information criterion; lower is better."""
        return self.num_parameters * math.log(self.num_values) - 2 * self._log_likelihood

    @property
    def aic(self) -> float:
        """Akaike's information criterion; lower is better."""
        return 2 * self.num_parameters - 2 * self._log_likelihood

    @property
    def _log_likelihood(self) -> float:
        return self.num_values * self.mean_log_likelihood

    def posterior(self, values_N: NDArray[np.floating]) -> FloatArray:
        """Chance that each value came from each component, shape (N, K); NaN for NaN."""
        values_N = np.asarray(values_N, dtype=np.float64).ravel()
        if self.is_constant:
            return np.where(np.isnan(values_N)[:, None], np.nan, self.weight_K)
        joint_KN = _as_row(self.mean_K, self.var_K, self.weight_K).log_joint(values_N)[0]
        chance_KN = np.exp(joint_KN - joint_KN.max(axis=0))
        return np.asarray((chance_KN / chance_KN.sum(axis=0)).T)

    def density(self, values_N: NDArray[np.floating]) -> FloatArray:
        """Density of the mixture at each value; constant values have none."""
        values_N = np.asarray(values_N, dtype=np.float64).ravel()
        row = _as_row(self.mean_K, self.var_K, self.weight_K)
        return np.asarray(np.exp(row.log_joint(values_N)[0]).sum(axis=0))


def fit_gaussians(
    values_N: NDArray[np.floating],
    num_components: int,
    *,
    weights_N: NDArray[np.floating] | None = None,
    tail: Tail = "low",
    seed: int = 0,
    tol: float = _FINAL_TOL,
) -> GaussianFit:
    """Fit a Gaussian mixture from several starts and keep the likeliest.

    Parameters
    ----------
    values_N
        Finite values in any order, at least one for each component and at least 2.
    num_components
        Components K; 1 gives mean and variance.
    weights_N
        How often each value counts, not negative, such as the counts of a
        :class:`bye_audit.core.histogram.ValueHistogram`. None: once.
    tail
        End at which a rare component is looked for.
    seed
        Of the k-means++ starts. The result is the same for the same values and seed.
    tol
        The ascent ends when a step gains less than this, in nats a value.

    Returns
    -------
    GaussianFit
        Values that are all the same give equal components, which is an answer.

    Raises
    ------
    ValueError
        If there are too few values, one is not finite, or the weights do not fit.

    Notes
    -----
    Expectation-maximisation finds the top nearest to its start. All starts (k-means, k-means++ and
    tails of several sizes) climb for a while on a summary of at most 2,048 groups; the best goes on
    to the top, there and then on all the values, up to a million of them. Of more values it sees a
    histogram of 65,536 bins with the means within the bins.

    Each variance is raised by 1e-3 of the values' variance in each step, as scikit-learn does with
    its ``reg_covar``: without it a handful of equal values makes a component of its own.

    Examples
    --------
    >>> fit = fit_gaussians(np.array([1.0, 1.1, 0.9, 1.0, 3.0, 3.1, 2.9, 3.0]), 2)
    >>> fit.mean_K.round(2).tolist(), fit.weight_K.round(2).tolist()
    ([1.0, 3.0], [0.5, 0.5])
    """
    values = _checked(values_N, weights_N, num_components)
    scaled, mean, spread = standardized(values)
    if spread == 0:
        return _constant_fit(mean, num_components, float(values.weights_N.sum()))
    if num_components == 1:
        # No floor: a single component cannot shrink onto a few values.
        name, best = "moments", _as_row(np.zeros(1), np.ones(1), np.ones(1))
    else:
        name, best = _best_fit(scaled, num_components, tail, seed, tol)
    return _describe(name, best, scaled, mean, spread)


def fit_gaussians_once(values_N: NDArray[np.floating], num_components: int) -> GaussianFit:
    """Fit a Gaussian mixture from the one start and with the settings of scikit-learn's default.

    Parameters
    ----------
    values_N
        As for :func:`fit_gaussians`.
    num_components
        Components K, at least 2.

    Returns
    -------
    GaussianFit
        What ``GaussianMixture(K).fit`` would give, up to the k-means it starts from: that of
        scikit-learn is drawn at random and may be a worse one.

    Raises
    ------
    ValueError
        As for :func:`fit_gaussians`.
    """
    values = _checked(values_N, None, num_components)
    scaled, mean, spread = standardized(values)
    if spread == 0:
        return _constant_fit(mean, num_components, float(values.weights_N.sum()))
    floor = _SKLEARN_FLOOR / spread**2
    _, starts = make_starts(scaled, num_components, tail="low", seed=0, variance_floor=floor)
    climbed = climb(
        scaled.values_N,
        starts.take(slice(0, 1)),
        weights_RN=_weights(scaled),
        tol=_SKLEARN_TOL,
        max_steps=_SKLEARN_STEPS,
        variance_floor=floor,
    )
    return _describe("kmeans", climbed.components, scaled, mean, spread)


def _checked(
    values_N: NDArray[np.floating],
    weights_N: NDArray[np.floating] | None,
    num_components: int,
) -> SortedValues:
    values, weights = sorted_values(values_N, weights_N)
    if num_components < 1:
        raise ValueError(f"a mixture needs at least 1 component, not {num_components}")
    if values.size < max(2, num_components):
        raise ValueError(
            f"a mixture needs at least {max(2, num_components)} values, got {values.size}"
        )
    return SortedValues(values, weights)


def _describe(
    name: str, best: Components, scaled: SortedValues, mean: float, spread: float
) -> GaussianFit:
    """Put a fit of standardised values into the values' own unit."""
    bound = float(mean_log_likelihood(scaled.values_N, best, scaled.weights_N[None])[0])
    best = best.ordered().rescaled(mean, spread)
    return GaussianFit(
        mean_K=best.mean_RK[0],
        var_K=best.var_RK[0],
        weight_K=best.weight_RK[0],
        mean_log_likelihood=bound - math.log(spread),
        num_values=float(scaled.weights_N.sum()),
        spread=spread,
        start=name,
    )


def sorted_values(
    values_N: NDArray[np.floating], weights_N: NDArray[np.floating] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Check values and sort them, or their histogram if there are more than a fit looks at.

    Returns
    -------
    values_M, weights_M
        Ascending, with positive weights. The order of the samples cannot move a result by a
        rounding error.
    """
    values = np.asarray(values_N, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        raise ValueError("a mixture needs finite values")
    if weights_N is None:
        if values.size > MAX_EXACT_VALUES:
            return _histogram_of(values)
        return np.sort(values), np.ones(values.size)
    weights = np.asarray(weights_N, dtype=np.float64).ravel()
    if weights.shape != values.shape:
        raise ValueError(f"{weights.size} weights do not fit {values.size} values")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    order = np.argsort(values, kind="stable")
    order = order[weights[order] > 0]
    return values[order], weights[order]


def standardized(values: SortedValues) -> tuple[SortedValues, float, float]:
    """Values with mean 0 and variance 1, and what their mean and standard deviation were.

    The deviation is 0, and the values are left alone, where all are the same up to rounding.
    """
    x_N, weight_N = values.values_N, values.weights_N
    num_values = float(weight_N.sum())
    mean = float(weight_N @ x_N) / num_values
    spread = math.sqrt(float(weight_N @ (x_N - mean) ** 2) / num_values)
    if spread <= _CONSTANT_RELATIVE_SPREAD * max(float(np.abs(x_N).max()), 1e-12):
        return values, mean, 0.0
    return SortedValues((x_N - mean) / spread, weight_N), mean, spread


def grouped(values: SortedValues, max_groups: int) -> SortedValues:
    """Means and weights of groups of neighbours, cut by rank and by value; few values stay.

    Cuts by rank alone would make groups that bridge the gap between two modes.
    """
    if values.size <= max_groups:
        return values
    by_rank = [values.cut_at(share) for share in np.linspace(0, 1, max_groups // 2)]
    places = np.linspace(values.values_N[0], values.values_N[-1], max_groups // 2)
    cuts = np.union1d(by_rank, np.searchsorted(values.values_N, places))
    weight_N, mean_N, _ = values.parts(cuts[(cuts > 0) & (cuts < values.size)])
    return SortedValues(mean_N, weight_N)


def _histogram_of(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return values[:1], np.array([float(values.size)])
    histogram = ValueHistogram(low, high, NUM_BINS)
    for begin in range(0, values.size, _HISTOGRAM_BATCH):
        histogram.add(values[begin : begin + _HISTOGRAM_BATCH])
    return histogram.values_and_weights()


def screened_starts(
    summary: SortedValues, num_components: int, tail: Tail, seed: int
) -> tuple[list[str], Components, FloatArray]:
    """Let every start climb for a while.

    Returns
    -------
    list of str
        Names of the starts.
    Components
        Where they have come to.
    bound_R
        Mean log-likelihood of a value there.
    """
    names, starts = make_starts(
        summary, num_components, tail=tail, seed=seed, variance_floor=VARIANCE_FLOOR
    )
    screened = climb(
        summary.values_N,
        starts,
        weights_RN=_weights(summary),
        tol=_SCREENING_TOL,
        max_steps=_SCREENING_STEPS,
        variance_floor=VARIANCE_FLOOR,
    ).components
    return names, screened, mean_log_likelihood(summary.values_N, screened, _weights(summary))


def _best_fit(
    values: SortedValues, num_components: int, tail: Tail, seed: int, tol: float
) -> tuple[str, Components]:
    """Climb from every start for a while and from the best to the top."""
    summary = grouped(values, SCREENED_VALUES)
    names, screened, bound_R = screened_starts(summary, num_components, tail, seed)
    winner = int(np.flatnonzero(bound_R >= bound_R.max() - _SAME_LIKELIHOOD)[0])
    best = screened.take(slice(winner, winner + 1))
    for seen in (summary, grouped(values, _GROUPED_VALUES), values):
        best = ascend(
            seen.values_N,
            best,
            weights_RN=_weights(seen),
            tol=tol,
            max_cycles=_FINAL_CYCLES if seen.size <= NUM_BINS else _FEW_CYCLES,
            variance_floor=VARIANCE_FLOOR,
        )
        if seen.size == values.size:
            break
    return names[winner], best


def _weights(values: SortedValues) -> FloatArray | None:
    """Weights for the E-step, which is faster without them."""
    return None if (values.weights_N == 1).all() else values.weights_N[None]


def _constant_fit(mean: float, num_components: int, num_values: float) -> GaussianFit:
    return GaussianFit(
        mean_K=np.full(num_components, mean),
        var_K=np.zeros(num_components),
        weight_K=np.full(num_components, 1 / num_components),
        mean_log_likelihood=0.0,
        num_values=num_values,
        spread=0.0,
        start="constant",
    )


def _as_row(mean_K: FloatArray, var_K: FloatArray, weight_K: FloatArray) -> Components:
    return Components(mean_RK=mean_K[None], var_RK=var_K[None], weight_RK=weight_K[None])
