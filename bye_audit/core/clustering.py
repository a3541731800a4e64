"""How samples are split by one score, low against the rest: the paper's way and its baselines.

Shapes: N = samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.gaussians import sorted_values
from bye_audit.core.mixture import TwoGaussians
from bye_audit.core.starts import SortedValues, two_means_cut

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowCluster:
    """The low ones among scored samples.

    Parameters
    ----------
    suspicion_of
        Chance that a score is one of them, in [0, 1]; 0 or 1 where the split knows no chance. NaN
        where the score is.
    mixture
        Both sides as normal components; None for a fixed threshold.
    cut
        Score that parts them; None if the low component is nowhere the likelier one.
    weight
        Share of the low ones.
    """

    suspicion_of: Callable[[FloatArray], FloatArray]
    mixture: TwoGaussians | None
    cut: float | None
    weight: float


def split_low(
    score_N: FloatArray,
    mixture: TwoGaussians,
    config: DetectConfig,
    *,
    weights_N: FloatArray | None = None,
) -> LowCluster:
    """Split finite scores as ``config.clustering`` says.

    Parameters
    ----------
    score_N
        At least 2 finite scores; low is suspicious.
    mixture
        Two Gaussians that were fitted to them.
    config
        ``clustering``, and ``entropy_threshold`` in the unit of the scores.
    weights_N
        How often each score counts; None: once.

    Returns
    -------
    LowCluster
        By ``gmm``: the low component of the mixture (section 4.3 of the paper). By ``kmeans``: the
        scores nearer to the lower of two centers. By ``threshold``: the scores below it.

    Notes
    -----
    The other two are the baselines of the paper's Table 7. Departs from the paper: the two centers
    are those of the best split, which in one dimension is found without a start.
    """
    if config.clustering == "gmm":
        return LowCluster(
            suspicion_of=lambda x_N: bye_suspicion(mixture, x_N, is_guarded=config.guards),
            mixture=mixture,
            cut=mixture.cut(),
            weight=mixture.weight_low,
        )
    values = SortedValues(*sorted_values(score_N, weights_N))
    if config.clustering == "threshold":
        cut, sides = config.threshold_value, None
    else:
        sides = _two_means(values)
        cut = (sides.mean_low + sides.mean_high) / 2
    weight_low = float(values.weights_N[values.values_N < cut].sum() / values.weights_N.sum())
    return LowCluster(
        suspicion_of=lambda x_N: np.where(np.isnan(x_N), np.nan, 1.0 * (x_N < cut)),
        mixture=sides,
        cut=cut,
        weight=weight_low,
    )


def _two_means(values: SortedValues) -> TwoGaussians:
    """Mean and variance of either part of the best split into two."""
    weight, mean, var = values.parts(np.array([two_means_cut(values)]))
    return TwoGaussians(
        mean_low=float(mean[0]),
        mean_high=float(mean[1]),
        var_low=float(var[0]),
        var_high=float(var[1]),
        weight_low=float(weight[0] / weight.sum()),
    )


def bye_suspicion(
    mixture: TwoGaussians, score_N: FloatArray, *, is_guarded: bool = True
) -> FloatArray:
    """Chance of belonging to the low component; 0 above the high component's mean if guarded."""
    posterior_N = mixture.posterior_low(score_N)
    # NaN compares as False and keeps its NaN posterior.
    return np.where(score_N > mixture.mean_high, 0.0, posterior_N) if is_guarded else posterior_N
