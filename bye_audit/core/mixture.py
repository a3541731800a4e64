"""Two-component Gaussian mixtures in one dimension, with the components ordered by mean.

Shapes: N = values.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.gaussians import (
    VARIANCE_FLOOR,
    GaussianFit,
    fit_gaussians,
    fit_gaussians_once,
    grouped,
    sorted_values,
)
from bye_audit.core.starts import SortedValues

MIN_DELTA_BIC = 10.0
"""BIC by which two Gaussians must beat one: "very strong" evidence of Kass and Raftery (1995)."""

_DENSITY_GRID = 512
_DENSITY_VALUES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoGaussians:
    """Two normal components, the low one first.

    Parameters
    ----------
    mean_low, mean_high
        Means, ``mean_low <= mean_high``, in the unit of the values (nats for entropies).
    var_low, var_high
        Variances, in that unit squared.
    weight_low
        Share of the low component, in [0, 1].
    """

    mean_low: float
    mean_high: float
    var_low: float
    var_high: float
    weight_low: float

    def posterior_low(self, values_N: NDArray[np.floating]) -> NDArray[np.float64]:
        """Chance that each value came from the low component, in [0, 1].

        With unequal variances it need not fall with the value: far outside both means the wider
        component takes over on either side.
        """
        # exp overflows to inf only for odds that make the chance 0.
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(self.log_odds_high(values_N))))

    def log_odds_high(self, values_N: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log of the odds that each value came from the high rather than the low component.

        Unlike the posterior it tells values apart that are far beyond doubt.
        """
        values = np.asarray(values_N, dtype=np.float64)
        log_prior = _log(1 - self.weight_low) - _log(self.weight_low)
        if self.var_low <= 0 or self.var_high <= 0:
            return np.full(values.shape, log_prior)
        log_low = _log_normal(values, self.mean_low, self.var_low)
        return _log_normal(values, self.mean_high, self.var_high) - log_low + log_prior

    def cut(self) -> float | None:
        """Value between the means where both components are equally likely; None if none is."""
        grid = np.linspace(self.mean_low, self.mean_high, 20_001)
        posterior = self.posterior_low(grid)
        below = np.flatnonzero(posterior < 0.5)
        if self.mean_high <= self.mean_low or not below.size or below[0] == 0:
            return None
        return float(grid[below[0]])

    def to_json(self) -> dict[str, float]:
        """Parameters as plain numbers."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureFit:
    """A fitted mixture and how it came about.

    Parameters
    ----------
    mixture
        The best of all starts.
    delta_bic
        BIC of one Gaussian minus BIC of two: positive where two describe the values better.
    num_values
        Values the fit stands for.
    mean_log_likelihood
        Of the fitted values under the mixture, a value.
    start
        Name of the start that won.
    is_constant
        True if all values are the same up to rounding, so that there was nothing to fit.
    """

    mixture: TwoGaussians
    delta_bic: float
    num_values: int
    mean_log_likelihood: float
    start: str
    is_constant: bool

    @property
    def has_two_modes(self) -> bool:
        """Whether two Gaussians describe the values better than one beyond doubt."""
        return self.delta_bic > MIN_DELTA_BIC


def fit_two_gaussians(
    values_N: NDArray[np.floating],
    *,
    seed: int = 0,
    tail: Literal["low", "high"] = "low",
    weights_N: NDArray[np.floating] | None = None,
) -> MixtureFit:
    r"""Fit Eq. 6 from several starts, keep the likeliest and hold it against one Gaussian.

    Parameters
    ----------
    values_N
        At least 2 finite values, in any order.
    seed
        Of the k-means++ starts. The result is the same for the same values and seed.
    tail
        End at which a rare component is looked for.
    weights_N
        How often each value counts; None: once.

    Returns
    -------
    MixtureFit
        Components ordered by mean. Values that are all the same give two equal components with
        zero separation, which is an answer.

    Raises
    ------
    ValueError
        If there are fewer than 2 values or one is not finite.

    Notes
    -----
    Equation 6 of [1]_. Departs from the paper: it names no start; its code takes scikit-learn's
    default. A single start often settles on a split of the clean mode while a rare mode is there,
    so the fit climbs from several and the best likelihood wins. See
    :func:`bye_audit.core.gaussians.fit_gaussians` for the starts, the floor of the variances and
    what is done with more than a million values.

    References
    ----------
    .. [1] Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025.
       arXiv:2505.16916, section 4.2.

    Examples
    --------
    >>> fit = fit_two_gaussians(np.array([1.0, 1.1, 0.9, 1.0, 3.0, 3.1, 2.9, 3.0]))
    >>> round(fit.mixture.mean_low, 2), round(fit.mixture.mean_high, 2)
    (1.0, 3.0)
    """
    return _as_two(fit_gaussians(values_N, 2, weights_N=weights_N, tail=tail, seed=seed))


def fit_two_gaussians_once(values_N: NDArray[np.floating]) -> MixtureFit:
    """Fit Eq. 6 as the paper's released code does: from one start, with scikit-learn's defaults.

    Parameters
    ----------
    values_N
        At least 2 finite values, in any order.

    Returns
    -------
    MixtureFit
        As :func:`fit_two_gaussians`, for whoever wants the paper's tables and not a decision.
    """
    return _as_two(fit_gaussians_once(values_N, 2))


def _as_two(fit: GaussianFit) -> MixtureFit:
    """Describe a fit of two components, with the one-component fit beside it."""
    bic_of_one = 2 * math.log(fit.num_values)
    if not fit.is_constant:
        bic_of_one += fit.num_values * (math.log(2 * math.pi * fit.spread**2) + 1)
    (low, high), (var_low, var_high) = fit.mean_K, fit.var_K
    return MixtureFit(
        mixture=TwoGaussians(
            mean_low=float(low),
            mean_high=float(high),
            var_low=float(var_low),
            var_high=float(var_high),
            weight_low=float(fit.weight_K[0]),
        ),
        delta_bic=bic_of_one - fit.bic,
        num_values=round(fit.num_values),
        mean_log_likelihood=fit.mean_log_likelihood,
        start=fit.start,
        is_constant=fit.is_constant,
    )


def split_at_emptiest(
    values_N: NDArray[np.floating],
    mixture: TwoGaussians,
    *,
    weights_N: NDArray[np.floating] | None = None,
) -> TwoGaussians:
    """Cut the values where they are rarest between a mixture's means; describe both sides.

    Parameters
    ----------
    values_N
        The finite values that ``mixture`` was fitted to.
    mixture
        Two modes that were found in them.
    weights_N
        How often each value counts; None: once.

    Returns
    -------
    TwoGaussians
        Weight, mean and variance of either side, or ``mixture`` itself if there is no rare place
        between its means.

    Notes
    -----
    Not in the paper. Where one mode has a long tail towards the other, the likeliest normal for the
    other is so wide that it claims the tail, far as the empty stretch between them may be. The
    density is a Gaussian kernel estimate with Scott's bandwidth.
    """
    from scipy.stats import gaussian_kde

    values = SortedValues(*sorted_values(values_N, weights_N))
    summary = grouped(values, _DENSITY_VALUES)
    if mixture.mean_high <= mixture.mean_low or not summary.values_N.std():
        return mixture
    grid = np.linspace(mixture.mean_low, mixture.mean_high, _DENSITY_GRID)
    emptiest = int(gaussian_kde(summary.values_N, weights=summary.weights_N)(grid).argmin())
    if emptiest in (0, _DENSITY_GRID - 1):
        return mixture
    _, _, var_all = values.parts(np.empty(0, dtype=np.int64))
    num_low = np.searchsorted(values.values_N, grid[emptiest])
    weight, mean, var = values.parts(np.array([num_low]))
    var_low, var_high = var + VARIANCE_FLOOR * var_all
    return TwoGaussians(
        mean_low=float(mean[0]),
        mean_high=float(mean[1]),
        var_low=float(var_low),
        var_high=float(var_high),
        weight_low=float(weight[0] / weight.sum()),
    )


def _log_normal(values: NDArray[np.float64], mean: float, var: float) -> NDArray[np.float64]:
    return np.asarray(-0.5 * (np.log(2 * np.pi * var) + (values - mean) ** 2 / var))


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
