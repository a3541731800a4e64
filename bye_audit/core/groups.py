"""A few values apart from most: a mixture of any number of components, cut in two groups.

Shapes: M = distinct values with weights, N = values, K = components of the mixture, G = points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.gaussians import GaussianFit, fit_gaussians
from bye_audit.core.mixture import MIN_DELTA_BIC

FloatArray = NDArray[np.float64]

# Fewer distinct values have no density to speak of.
_FEWEST_VALUES = 4
_LEAST_OVERLAP = 1e-6
# Five mixtures for each of thousands of heads: the top to a millionth of a nat is near enough.
_FIT_TOL = 1e-6
# Standard deviations to either side of a mean that an integral looks at, and its points.
_REACH = 8.0
_POINTS_OF_COMPONENT = 321


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
    """

    fit: GaussianFit
    num_low: int
    overlap: float
    delta_bic: float

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
        return self._mean(is_low=not self.is_low_minority)

    @property
    def minority_mean(self) -> float:
        """Mean of the few."""
        return self._mean(is_low=self.is_low_minority)

    @property
    def _low_share(self) -> float:
        return float(self.fit.weight_K[: self.num_low].sum())

    def _mean(self, *, is_low: bool) -> float:
        part = slice(self.num_low) if is_low else slice(self.num_low, None)
        return float(np.average(self.fit.mean_K[part], weights=self.fit.weight_K[part]))

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
        }


def cut_in_two(
    values_M: NDArray[np.floating],
    weights_M: NDArray[np.floating] | NDArray[np.integer],
    *,
    max_components: int = 5,
    criterion: Literal["aic", "bic"] = "aic",
    seed: int = 0,
) -> list[TwoGroups]:
    r"""Describe values by a mixture and cut it between each two neighbouring components.

    Parameters
    ----------
    values_M, weights_M
        Distinct values and how often each counts.
    max_components
        Most components of the mixture.
    criterion
        What chooses their number.
    seed
        Of the mixture fits.

    Returns
    -------
    list of TwoGroups
        The least overlap first. Empty where no mixture describes the values better than one
        Gaussian beyond doubt.

    Notes
    -----
    The overlap of two equal normals at a distance of d standard deviations is
    :math:`2 \Phi(-d / 2)`. That a group has little of it is no evidence that it exists: the
    likeliest mixture of any skewed or heavy-tailed distribution has such components.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values = np.concatenate([rng.normal(0, 1, 900), rng.normal(8, 1, 100)])
    >>> best = cut_in_two(values, np.ones(1000))[0]
    >>> round(best.share, 2), best.is_low_minority
    (0.1, False)
    """
    if np.size(values_M) < _FEWEST_VALUES:
        return []
    counts_M = np.asarray(weights_M, dtype=np.float64)
    fits = [
        fit_gaussians(values_M, num, weights_N=counts_M, tail="both", seed=seed, tol=_FIT_TOL)
        for num in range(1, min(max_components, np.size(values_M)) + 1)
    ]
    best = min(fits, key=lambda fit: fit.aic if criterion == "aic" else fit.bic)
    delta_bic = fits[0].bic - best.bic
    if best.is_constant or delta_bic <= MIN_DELTA_BIC:
        return []
    cuts = [
        TwoGroups(
            fit=best,
            num_low=num_low,
            overlap=overlap_of_groups(best, num_low),
            delta_bic=delta_bic,
        )
        for num_low in range(1, best.num_components)
    ]
    return sorted(cuts, key=lambda cut: cut.overlap)


def overlap_of_groups(fit: GaussianFit, num_low: int) -> float:
    """Area that the densities of two groups of components have in common, each taken as 1."""
    std_K = np.sqrt(np.maximum(fit.var_K, np.finfo(np.float64).tiny))
    reach = np.linspace(-_REACH, _REACH, _POINTS_OF_COMPONENT)
    grid_G = np.unique((fit.mean_K[:, None] + std_K[:, None] * reach).ravel())
    density_GK = np.exp(-0.5 * ((grid_G[:, None] - fit.mean_K) / std_K) ** 2)
    density_GK *= fit.weight_K / (std_K * math.sqrt(2 * math.pi))
    low_G = _density(density_GK, fit, slice(num_low))
    high_G = _density(density_GK, fit, slice(num_low, None))
    return min(1.0, float(np.trapezoid(np.minimum(low_G, high_G), grid_G)))


def _density(density_GK: FloatArray, fit: GaussianFit, part: slice) -> FloatArray:
    """Density of some components together, taken as 1."""
    weight = max(float(fit.weight_K[part].sum()), np.finfo(np.float64).tiny)
    return np.asarray(density_GK[:, part].sum(axis=1) / weight)
