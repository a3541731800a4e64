"""Two-component Gaussian mixtures in one dimension, with the components ordered by mean.

Shapes: N = values.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TAIL_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the values at one end that a fit is started from: a rare mode is missed otherwise."""
MAX_FITTED_VALUES = 10_000
"""Above this many values a fit sees that many of their quantiles instead."""
VARIANCE_FLOOR = 1e-3
"""Added to each component's variance, in units of all values' variance."""
MIN_DELTA_BIC = 10.0
"""BIC by which two Gaussians must beat one: "very strong" evidence of Kass and Raftery (1995)."""

# Enough to tell the starts apart; the winner goes on until it converges.
_SCREENING_STEPS = 100
_FINAL_STEPS = 1_000
_DENSITY_GRID = 512
_FREE_PARAMETERS_ONE = 2
_FREE_PARAMETERS_TWO = 5
# Relative to the values' own size: below this, differences are rounding and not a distribution.
_CONSTANT_RELATIVE_SPREAD = 1e-6


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
    values_N: NDArray[np.floating], *, seed: int = 0, tail: Literal["low", "high"] = "low"
) -> MixtureFit:
    r"""Fit Eq. 6 from several starts and keep the likeliest.

    Parameters
    ----------
    values_N
        At least 2 finite values, in any order.
    seed
        Of the k-means starts. The result is the same for the same values and seed.
    tail
        End at which a rare component is looked for.

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
    so the fit is also started from k-means++ and from tails of several sizes, and the best
    likelihood wins. Each variance has a floor of 1e-3 of the values' variance: without it a handful
    of equal values makes a component of its own.

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
    values = np.asarray(values_N, dtype=np.float64).ravel()
    if values.size < 2:
        raise ValueError(f"a mixture needs at least 2 values, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError("a mixture needs finite values")
    # Sorted, so that the order of the samples cannot move the result by a rounding error.
    fitted = _quantile_summary(np.sort(values))
    mean, spread = float(fitted.mean()), float(fitted.std())
    if spread <= _CONSTANT_RELATIVE_SPREAD * max(float(np.abs(fitted).max()), 1e-12):
        return _constant_fit(mean, values.size)
    scaled = (fitted - mean) / spread
    name, scaled_mixture, score = _best_fit(scaled, seed, tail)
    score_one = -0.5 * (math.log(2 * math.pi) + 1)
    delta_bic = 2 * values.size * (score - score_one) - (
        _FREE_PARAMETERS_TWO - _FREE_PARAMETERS_ONE
    ) * math.log(values.size)
    return MixtureFit(
        mixture=_rescaled(scaled_mixture, mean, spread),
        delta_bic=delta_bic,
        num_values=values.size,
        mean_log_likelihood=score - math.log(spread),
        start=name,
        is_constant=False,
    )


def split_at_emptiest(values_N: NDArray[np.floating], mixture: TwoGaussians) -> TwoGaussians:
    """Cut the values where they are rarest between a mixture's means; describe both sides.

    Parameters
    ----------
    values_N
        The finite values that ``mixture`` was fitted to.
    mixture
        Two modes that were found in them.

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

    values = _quantile_summary(np.sort(np.asarray(values_N, dtype=np.float64).ravel()))
    if mixture.mean_high <= mixture.mean_low or not values.std():
        return mixture
    grid = np.linspace(mixture.mean_low, mixture.mean_high, _DENSITY_GRID)
    emptiest = int(gaussian_kde(values)(grid).argmin())
    if emptiest in (0, _DENSITY_GRID - 1):
        return mixture
    num_low = int(np.searchsorted(values, grid[emptiest]))
    floor = VARIANCE_FLOOR * float(values.var())
    low, high = values[:num_low], values[num_low:]
    return TwoGaussians(
        mean_low=float(low.mean()),
        mean_high=float(high.mean()),
        var_low=float(low.var()) + floor,
        var_high=float(high.var()) + floor,
        weight_low=num_low / values.size,
    )


def _quantile_summary(sorted_N: NDArray[np.float64]) -> NDArray[np.float64]:
    if sorted_N.size <= MAX_FITTED_VALUES:
        return sorted_N
    shares = (np.arange(MAX_FITTED_VALUES) + 0.5) / MAX_FITTED_VALUES
    return sorted_N[(shares * sorted_N.size).astype(np.int64)]


def _constant_fit(mean: float, num_values: int) -> MixtureFit:
    same = TwoGaussians(mean_low=mean, mean_high=mean, var_low=0.0, var_high=0.0, weight_low=0.5)
    return MixtureFit(
        mixture=same,
        delta_bic=-(_FREE_PARAMETERS_TWO - _FREE_PARAMETERS_ONE) * math.log(num_values),
        num_values=num_values,
        mean_log_likelihood=0.0,
        start="constant",
        is_constant=True,
    )


def _best_fit(
    sorted_N: NDArray[np.float64], seed: int, tail: str
) -> tuple[str, TwoGaussians, float]:
    """Climb from every start for a while and from the best to the top.

    Gives the winning start's name, the mixture and its mean log-likelihood.
    """
    starts: list[tuple[str, dict[str, object]]] = [
        ("kmeans", {"init_params": "kmeans"}),
        ("k-means++", {"init_params": "k-means++", "n_init": 3}),
    ]
    for share in TAIL_SHARES:
        num_tail = round(share * sorted_N.size)
        if 2 <= num_tail <= sorted_N.size - 2:
            num_low = num_tail if tail == "low" else sorted_N.size - num_tail
            parts = (sorted_N[:num_low], sorted_N[num_low:])
            starts.append((f"{tail} tail {share:.1%}", _start_from(*map(_moments, parts))))
    best_name, best, best_score = "", None, -math.inf
    for name, options in starts:
        candidate, score = _climb(sorted_N, seed, _SCREENING_STEPS, options)
        # A difference below 1e-9 is rounding: the first start keeps the win.
        if best is None or score > best_score + 1e-9:
            best_name, best, best_score = name, candidate, score
    assert best is not None  # k-means always gives a fit
    share = best.weight_low
    low = (share, best.mean_low, best.var_low)
    high = (1 - share, best.mean_high, best.var_high)
    final, score = _climb(sorted_N, seed, _FINAL_STEPS, _start_from(low, high))
    return best_name, final, score


def _climb(
    sorted_N: NDArray[np.float64], seed: int, num_steps: int, start: dict[str, object]
) -> tuple[TwoGaussians, float]:
    """Run expectation-maximisation; give the mixture and its mean log-likelihood."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    column = sorted_N[:, None]
    options = {"n_init": 1, **start}
    mixture = GaussianMixture(
        n_components=2,
        covariance_type="diag",
        reg_covar=VARIANCE_FLOOR,
        tol=1e-5,
        max_iter=num_steps,
        random_state=seed,
        **options,
    )
    with warnings.catch_warnings():
        # An unfinished climb still competes by its likelihood; few distinct values are allowed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(column)
        score = float(mixture.score(column))
    ordered = _ordered(mixture.means_[:, 0], mixture.covariances_[:, 0], mixture.weights_)
    return ordered, score


def _moments(part: NDArray[np.float64]) -> tuple[float, float, float]:
    """Size, mean and variance of one side of a split."""
    return float(part.size), float(part.mean()), float(part.var()) + VARIANCE_FLOOR


def _start_from(
    low: tuple[float, float, float], high: tuple[float, float, float]
) -> dict[str, object]:
    """Turn weight, mean and variance of two components into scikit-learn's options."""
    weight, mean, var = np.array([low, high]).T
    return {
        "weights_init": weight / weight.sum(),
        "means_init": mean[:, None],
        "precisions_init": (1.0 / var)[:, None],
    }


def _ordered(
    means: NDArray[np.float64], variances: NDArray[np.float64], weights: NDArray[np.float64]
) -> TwoGaussians:
    low, high = (0, 1) if means[0] <= means[1] else (1, 0)
    return TwoGaussians(
        mean_low=float(means[low]),
        mean_high=float(means[high]),
        var_low=float(variances[low]),
        var_high=float(variances[high]),
        weight_low=float(weights[low]),
    )


def _rescaled(mixture: TwoGaussians, mean: float, spread: float) -> TwoGaussians:
    return TwoGaussians(
        mean_low=mixture.mean_low * spread + mean,
        mean_high=mixture.mean_high * spread + mean,
        var_low=mixture.var_low * spread**2,
        var_high=mixture.var_high * spread**2,
        weight_low=mixture.weight_low,
    )


def _log_normal(values: NDArray[np.float64], mean: float, var: float) -> NDArray[np.float64]:
    return np.asarray(-0.5 * (np.log(2 * np.pi * var) + (values - mean) ** 2 / var))


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
