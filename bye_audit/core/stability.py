"""Would another draw of the same data have said the same: resampled mixtures, overlap, agreement.

Shapes: N = samples, B = resamples, G = groups of neighbouring values.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.bsi import bimodal_separation_index
from bye_audit.core.expectation import Components, FloatArray, ascend, mean_log_likelihood
from bye_audit.core.gaussians import (
    VARIANCE_FLOOR,
    grouped,
    screened_starts,
    sorted_values,
    standardized,
)
from bye_audit.core.mixture import TwoGaussians
from bye_audit.core.starts import SortedValues, Tail

BoolArray = NDArray[np.bool_]

MIN_JACCARD = 0.75
"""Mean overlap of the suspects over resamples from which they are a stable group, after Hennig
(2007): "valid, stable clusters" have 0.75 or more, below 0.6 a cluster "should not be trusted"."""
MIN_KAPPA = 0.6
"""Chance-corrected agreement from which two rules single out the same samples: "substantial" in the
words of Landis and Koch (1977)."""

_NUM_GROUPS = 1_024
# Overlaps of more samples would be known more precisely than anyone needs.
_MAX_JUDGED = 100_000
_MAX_TOPS = 4
_TOL = 1e-7
_MAX_CYCLES = 60
_PARAMETERS_OF_ONE, _PARAMETERS_OF_TWO = 2, 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResampledMixtures:
    """Mixtures of two Gaussians fitted to resamples of the same values.

    Parameters
    ----------
    components
        One mixture a resample, low component first.
    delta_bic_B
        BIC of one Gaussian minus BIC of two, for each.
    values_G, weights_BG
        What was fitted: groups of neighbours, and how often each was drawn.
    """

    components: Components
    delta_bic_B: FloatArray
    values_G: FloatArray
    weights_BG: FloatArray

    def __len__(self) -> int:
        return self.delta_bic_B.size

    def mixture(self, number: int) -> TwoGaussians:
        """Mixture of one resample."""
        low, high = self.components.mean_RK[number].tolist()
        var_low, var_high = self.components.var_RK[number].tolist()
        weight_low = float(self.components.weight_RK[number, 0])
        return TwoGaussians(
            mean_low=low, mean_high=high, var_low=var_low, var_high=var_high, weight_low=weight_low
        )

    def separations(self) -> FloatArray:
        """Bimodal Separation Index of each resample."""
        return np.array([bimodal_separation_index(self.mixture(b)) for b in range(len(self))])


def resample_mixtures(
    values_N: NDArray[np.floating], *, num_resamples: int, seed: int, tail: Tail = "low"
) -> ResampledMixtures:
    """Fit two Gaussians to bootstrap samples of the values.

    Parameters
    ----------
    values_N
        At least 2 finite values.
    num_resamples
        Bootstrap samples B.
    seed
        Of the draws. The result is the same for the same values and seed.
    tail
        End at which a rare component is looked for.

    Returns
    -------
    ResampledMixtures
        Of constant values, equal components without spread.

    Notes
    -----
    The values are summarised in at most 1,024 groups of neighbours, whose sizes are drawn anew as a
    bootstrap sample would draw them; time does not grow with their number. Every fit of all values
    that a start led to is climbed on from, so that a resample may prefer another of them.
    """
    scaled, mean, spread = standardized(SortedValues(*sorted_values(values_N)))
    if spread == 0:
        same_B2 = np.full((num_resamples, 2), mean)
        components = Components(mean_RK=same_B2, var_RK=0 * same_B2, weight_RK=0 * same_B2 + 0.5)
        return ResampledMixtures(
            components=components,
            delta_bic_B=np.zeros(num_resamples),
            values_G=np.array([mean]),
            weights_BG=np.full((num_resamples, 1), float(np.size(values_N))),
        )
    summary = grouped(scaled, _NUM_GROUPS)
    num_values = round(float(summary.weights_N.sum()))
    share_G = summary.weights_N / summary.weights_N.sum()
    weights_BG = (
        np.random.default_rng([seed, num_resamples])
        .multinomial(num_values, share_G, num_resamples)
        .astype(np.float64)
    )
    tops = _distinct_tops(summary, tail, seed)
    num_tops = len(tops)
    weights_RG = np.repeat(weights_BG, num_tops, axis=0)
    climbed = ascend(
        summary.values_N,
        tops.take(np.tile(np.arange(num_tops), num_resamples)),
        weights_RN=weights_RG,
        tol=_TOL,
        max_cycles=_MAX_CYCLES,
        variance_floor=VARIANCE_FLOOR,
    )
    bound_BT = mean_log_likelihood(summary.values_N, climbed, weights_RG).reshape(-1, num_tops)
    winner_B = bound_BT.argmax(axis=1)
    best = climbed.take(np.arange(num_resamples) * num_tops + winner_B)
    first_B = weights_BG @ summary.values_N / num_values
    var_B = np.maximum(weights_BG @ summary.values_N**2 / num_values - first_B**2, 0)
    # A resample may have none of the few values that differ; one mode is as wide then as each of
    # two has to be.
    width_B = np.maximum(var_B, VARIANCE_FLOOR)
    gained_B = 2 * bound_BT.max(axis=1) + np.log(2 * math.pi * width_B) + var_B / width_B
    penalty = (_PARAMETERS_OF_TWO - _PARAMETERS_OF_ONE) * math.log(num_values)
    return ResampledMixtures(
        components=best.ordered().rescaled(mean, spread),
        delta_bic_B=num_values * gained_B - penalty,
        values_G=summary.values_N * spread + mean,
        weights_BG=weights_BG,
    )


def _distinct_tops(summary: SortedValues, tail: Tail, seed: int) -> Components:
    """Where the starts lead on all values: the likeliest few, each once."""
    _, screened, _ = screened_starts(summary, 2, tail, seed)
    weights = summary.weights_N[None]
    tops = ascend(
        summary.values_N,
        screened,
        weights_RN=weights,
        tol=_TOL,
        max_cycles=_MAX_CYCLES,
        variance_floor=VARIANCE_FLOOR,
    ).ordered()
    bound_R = mean_log_likelihood(summary.values_N, tops, weights)
    kept: list[int] = []
    for row in np.argsort(-bound_R, kind="stable"):
        is_new = all(np.abs(tops.mean_RK[row] - tops.mean_RK[k]).max() > 0.05 for k in kept)
        if is_new and len(kept) < _MAX_TOPS:
            kept.append(int(row))
    return tops.take(np.array(kept))


def judged_rows(num_samples: int, seed: int) -> NDArray[np.integer]:
    """Choose samples on which overlaps are measured: all, or 100,000 of more."""
    rows = np.arange(num_samples)
    if num_samples <= _MAX_JUDGED:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, _MAX_JUDGED, replace=False))


def jaccard(first_N: BoolArray, second_N: BoolArray) -> float:
    """Overlap of two sets of samples: shared by both over in either, 1 if both are empty."""
    either = int((first_N | second_N).sum())
    return float((first_N & second_N).sum() / either) if either else 1.0


def cohens_kappa(first_N: BoolArray, second_N: BoolArray) -> float:
    """Agreement of two sets of samples beyond chance, in [-1, 1].

    1 where the sets are the same, 0 where they overlap as much as two independent draws of their
    sizes would; 0 also where chance alone would make them agree on everything but they do not.
    """
    if (first_N == second_N).all():
        return 1.0
    observed = float((first_N == second_N).mean())
    first, second = float(first_N.mean()), float(second_N.mean())
    expected = first * second + (1 - first) * (1 - second)
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0


def agreement(flags_by_rule: Mapping[str, BoolArray]) -> dict[str, float]:
    """Cohen's kappa of every two rules that suspect somebody.

    Parameters
    ----------
    flags_by_rule
        Suspects of each rule among the same samples.

    Returns
    -------
    dict
        ``first/second`` to kappa, rules in alphabetical order; empty with fewer than two such
        rules: a rule without evidence neither agrees nor disagrees.
    """
    speaking = sorted(name for name, flags_N in flags_by_rule.items() if flags_N.any())
    return {
        f"{first}/{second}": cohens_kappa(flags_by_rule[first], flags_by_rule[second])
        for first, second in combinations(speaking, 2)
    }


def spread_of(values_B: FloatArray) -> dict[str, float]:
    """Mean and central 90 % of a statistic over the resamples."""
    low, high = np.quantile(values_B, [0.05, 0.95])
    return {"mean": float(values_B.mean()), "q05": float(low), "q95": float(high)}
