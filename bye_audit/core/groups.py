"""Whether values fall into two groups, a few apart from most, and how sure that is.

Shapes: M = distinct values with weights, N = values, K = components of the mixture, G = points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.gaussians import GaussianFit, fit_gaussians, sorted_values
from bye_audit.core.mixture import MIN_DELTA_BIC

FloatArray = NDArray[np.float64]

_DENSITY_GRID = 256
# Fewer distinct values have no density to speak of.
_FEWEST_VALUES = 4
_LEAST_OVERLAP = 1e-6
# Five mixtures for each of thousands of heads: the top to a millionth of a nat is near enough.
_FIT_TOL = 1e-6
# How much of the minority the valley and the mixture may sort differently.
_MAX_MISPLACED = 0.25
# Standard deviations to either side of a mean that an integral looks at, and its points.
_REACH = 8.0
_POINTS_OF_COMPONENT = 321


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRules:
    """When a minority counts as a group of its own.

    Parameters
    ----------
    max_components
        Most components of the mixture; how many it takes, ``criterion`` decides.
    criterion
        ``aic`` or ``bic``.
    min_share, max_share
        Bounds of the minority's share.
    max_overlap
        Most area that the densities of both groups, each taken as 1, may have in common.
    max_valley
        Most that the density between the groups may be, as a share of the minority's peak.
    min_valley_sigmas
        How sure it must be that the density between is lower than the minority's peak.
    """

    max_components: int = 5
    criterion: Literal["aic", "bic"] = "aic"
    min_share: float = 0.002
    max_share: float = 0.4
    max_overlap: float = 0.157
    max_valley: float = 2 / 3
    min_valley_sigmas: float = 4.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TwoGroups:
    """A mixture cut in two between neighbouring components.

    Parameters
    ----------
    fit
        The mixture.
    num_low
        Components of the low group.
    overlap
        Area that the densities of both groups, each taken as 1, have in common; 0 is best.
    delta_bic
        BIC of one Gaussian minus BIC of the mixture.
    valley
        Least density between the groups' peaks as a share of the minority's peak; 1 if the groups
        meet elsewhere than in a valley.
    valley_sigmas
        Standard errors by which it is lower.
    """

    fit: GaussianFit
    num_low: int
    overlap: float
    delta_bic: float
    valley: float = 1.0
    valley_sigmas: float = 0.0

    @property
    def share(self) -> float:
        """Share of the minority."""
        return min(self._low_share, 1.0 - self._low_share)

    @property
    def is_low_minority(self) -> bool:
        """Whether the few are the low ones."""
        return self._low_share < 0.5

    @property
    def separation(self) -> float:
        """Separation score: one over the overlap."""
        return 1.0 / max(self.overlap, _LEAST_OVERLAP)

    @property
    def majority_mean(self) -> float:
        """Mean of the many."""
        part = slice(self.num_low, None) if self.is_low_minority else slice(self.num_low)
        return float(np.average(self.fit.mean_K[part], weights=self.fit.weight_K[part]))

    @property
    def _low_share(self) -> float:
        return float(self.fit.weight_K[: self.num_low].sum())

    def keeps(self, rules: GroupRules) -> bool:
        """Whether the minority is a group of its own by these rules."""
        return (
            self.overlap <= rules.max_overlap
            and self.valley <= rules.max_valley
            and self.valley_sigmas >= rules.min_valley_sigmas
        )

    def minority_chance(self, values_N: NDArray[np.floating]) -> FloatArray:
        """Chance that each value is of the minority, in [0, 1]; NaN for NaN.

        0 beyond the majority's mean: there a wide minority would win by its width alone.
        """
        values_N = np.asarray(values_N, dtype=np.float64)
        low_N = self.fit.posterior(values_N)[:, : self.num_low].sum(axis=1)
        if self.is_low_minority:
            return np.where(values_N > self.majority_mean, 0.0, low_N)
        return np.where(values_N < self.majority_mean, 0.0, 1.0 - low_N)

    def to_json(self) -> dict[str, Any]:
        """Numbers as plain values."""
        return {
            "num_components": self.fit.num_components,
            "share": self.share,
            "side": "low" if self.is_low_minority else "high",
            "overlap": self.overlap,
            "delta_bic": self.delta_bic,
            "valley": self.valley,
            "valley_sigmas": self.valley_sigmas,
        }


def find_two_groups(
    values_M: NDArray[np.floating],
    weights_M: NDArray[np.floating],
    *,
    rules: GroupRules,
    least_bandwidth: float = 0.0,
    seed: int = 0,
) -> TwoGroups | None:
    r"""Look for a minority that stands apart on either side.

    Parameters
    ----------
    values_M, weights_M
        Distinct values and how often each counts.
    rules
        What it takes.
    least_bandwidth
        Distance below which values are not told apart, such as the width of a bin.
    seed
        Of the mixture fits.

    Returns
    -------
    TwoGroups or None
        Of the cuts that keep the rules the one with the least overlap; None if none does, which is
        an answer.

    Notes
    -----
    The mixture with the least AIC has as many components as a skewed or heavy tail takes to
    describe, so that a rare component is no evidence of a group. Evidence is that values are *rarer
    between* the minority and the majority than within the minority: in a tail they are not,
    whatever its form. Both densities are kernel estimates with half of the minority's spread for
    bandwidth h. With :math:`n = 2 \sqrt\pi h N f` samples under a kernel the difference of
    :math:`2 \sqrt n` has variance 2, so that it counts in standard errors.

    The overlap of two equal normals at a distance of d standard deviations is
    :math:`2 \Phi(-d / 2)`; the default of 0.157 is that of a Bimodal Separation Index of 2.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values = np.concatenate([rng.normal(0, 1, 900), rng.normal(8, 1, 100)])
    >>> groups = find_two_groups(values, np.ones(1000), rules=GroupRules())
    >>> round(groups.share, 2), groups.is_low_minority
    (0.1, False)
    >>> find_two_groups(rng.exponential(1, 1000), np.ones(1000), rules=GroupRules()) is None
    True
    """
    cuts = cut_in_two(values_M, weights_M, rules=rules, least_bandwidth=least_bandwidth, seed=seed)
    return max(
        (groups for groups in cuts if groups.keeps(rules)),
        key=lambda groups: groups.separation,
        default=None,
    )


def cut_in_two(
    values_M: NDArray[np.floating],
    weights_M: NDArray[np.floating],
    *,
    rules: GroupRules,
    least_bandwidth: float = 0.0,
    seed: int = 0,
) -> list[TwoGroups]:
    """Give every cut of the mixture whose minority has a share within bounds, with its evidence.

    Empty where no mixture describes the values better than one Gaussian beyond doubt. Parameters as
    for :func:`find_two_groups`.
    """
    values_M, weights_M = sorted_values(values_M, weights_M)
    if values_M.size < _FEWEST_VALUES:
        return []
    fits = [
        fit_gaussians(values_M, num, weights_N=weights_M, tail="both", seed=seed, tol=_FIT_TOL)
        for num in range(1, min(rules.max_components, values_M.size) + 1)
    ]
    best = min(fits, key=lambda fit: fit.aic if rules.criterion == "aic" else fit.bic)
    delta_bic = fits[0].bic - best.bic
    if delta_bic <= MIN_DELTA_BIC:
        return []
    cuts = []
    for num_low in range(1, best.num_components):
        groups = TwoGroups(
            fit=best,
            num_low=num_low,
            overlap=overlap_of_groups(best, num_low),
            delta_bic=delta_bic,
        )
        if not rules.min_share <= groups.share < rules.max_share:
            continue
        if groups.overlap <= rules.max_overlap:
            valley, sigmas = _measure_valley(values_M, weights_M, groups, least_bandwidth)
            groups = replace(groups, valley=valley, valley_sigmas=sigmas)
        cuts.append(groups)
    return cuts


def overlap_of_groups(fit: GaussianFit, num_low: int) -> float:
    """Area that the densities of two groups of components have in common, each taken as 1."""
    std_K = np.sqrt(np.maximum(fit.var_K, np.finfo(np.float64).tiny))
    reach = np.linspace(-_REACH, _REACH, _POINTS_OF_COMPONENT)
    grid_G = np.unique((fit.mean_K[:, None] + std_K[:, None] * reach).ravel())
    density_GK = np.exp(-0.5 * ((grid_G[:, None] - fit.mean_K) / std_K) ** 2)
    density_GK *= fit.weight_K / (std_K * math.sqrt(2 * math.pi))
    low_G = density_GK[:, :num_low].sum(axis=1) / fit.weight_K[:num_low].sum()
    high_G = density_GK[:, num_low:].sum(axis=1) / fit.weight_K[num_low:].sum()
    return min(1.0, float(np.trapezoid(np.minimum(low_G, high_G), grid_G)))


def _measure_valley(
    values_M: FloatArray, weights_M: FloatArray, groups: TwoGroups, least_bandwidth: float
) -> tuple[float, float]:
    """Compare the least density between the groups with that of the minority's peak.

    Gives the ratio of the two and its distance from 1 in standard errors.
    """
    chance_M = groups.minority_chance(values_M)
    minority_M, majority_M = weights_M * chance_M, weights_M * (1.0 - chance_M)
    inside = values_M[chance_M > 0.5]
    if not inside.size or not majority_M.sum() > 0:
        return 1.0, 0.0
    spread = _quantile(values_M, minority_M, 0.84) - _quantile(values_M, minority_M, 0.16)
    bandwidth = max(spread / 4, least_bandwidth, np.finfo(np.float64).tiny)
    grid_G = np.linspace(inside.min(), inside.max(), _DENSITY_GRID)
    # Of the minority alone: near its border the majority's kernels outweigh it.
    own_G = _kernel_counts(values_M, minority_M, grid_G, bandwidth)
    peak, most = float(grid_G[int(own_G.argmax())]), float(own_G.max())
    between_G = np.linspace(peak, _quantile(values_M, majority_M, 0.5), _DENSITY_GRID)
    count_G = _kernel_counts(values_M, weights_M, between_G, bandwidth)
    emptiest = float(between_G[int(count_G.argmin())])
    is_beyond_M = values_M < emptiest if groups.is_low_minority else values_M > emptiest
    misplaced = minority_M[~is_beyond_M].sum() + majority_M[is_beyond_M].sum()
    if misplaced > _MAX_MISPLACED * minority_M.sum():
        # The cut runs through a mode, beside the valley.
        return 1.0, 0.0
    least = float(count_G.min())
    return min(1.0, least / most), math.sqrt(2) * (math.sqrt(most) - math.sqrt(least))


def _quantile(values_M: FloatArray, weights_M: FloatArray, share: float) -> float:
    total_M = np.cumsum(weights_M)
    return float(
        values_M[min(int(np.searchsorted(total_M, share * total_M[-1])), total_M.size - 1)]
    )


def _kernel_counts(
    values_M: FloatArray, weights_M: FloatArray, grid_G: FloatArray, bandwidth: float
) -> FloatArray:
    """Count samples under a Gaussian kernel at each point: those of a box of its variance."""
    kernel_GM = np.exp(-0.5 * ((grid_G[:, None] - values_M) / bandwidth) ** 2)
    return np.asarray(math.sqrt(2) * (kernel_GM @ weights_M))
