"""Layers whose two groups are what strata tell apart: looked at again within the strata.

Shapes: N = samples, L = decoder layers.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.bsi import LayerProfile, LayerRule, profile_layers
from bye_audit.core.confounders import (
    Association,
    Strata,
    associate_all,
    fit_stratum_scale,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StratifiedLayers:
    """Entropies and profiles, of some layers within strata.

    Parameters
    ----------
    entropy_NL
        As they were; within strata, each stratum is moved and stretched to lie and spread like the
        typical one.
    layers
        Profiles of these.
    explained
        What explained the two groups of each layer that is looked at within strata.
    """

    entropy_NL: FloatArray
    layers: list[LayerProfile]
    explained: dict[int, Association]


def regard_strata(
    entropy_NL: FloatArray,
    layers: Sequence[LayerProfile],
    strata: Mapping[str, Strata],
    rule: LayerRule,
    seed: int = 0,
) -> StratifiedLayers:
    """Look at layers within strata where these explain both groups of a layer.

    Parameters
    ----------
    entropy_NL
        Comparable over samples; NaN where a sample has no value.
    layers
        Their profiles.
    strata
        Confounders; read only if a layer has two groups.
    rule
        What makes a layer sensitive.
    seed
        Of the mixture fits.

    Returns
    -------
    StratifiedLayers
        Layers that nothing explains are left as they were.
    """
    entropy_NL, found = entropy_NL.copy(), list(layers)
    explained: dict[int, Association] = {}
    for place, profile in enumerate(layers):
        if not rule.is_separated(profile.mixture, profile.delta_bic):
            continue
        values_N = entropy_NL[:, profile.layer]
        explanation = _explanation(values_N, profile, strata)
        if explanation is None:
            continue
        explained[profile.layer] = explanation
        entropy_NL[:, profile.layer] = _within(values_N, strata[explanation.name])
        again = profile_layers(entropy_NL[:, [profile.layer]], rule, seed)[0]
        found[place] = replace(again, layer=profile.layer)
    return StratifiedLayers(entropy_NL=entropy_NL, layers=found, explained=explained)


def _explanation(
    values_N: FloatArray, profile: LayerProfile, strata: Mapping[str, Strata]
) -> Association | None:
    """Give the confounder that tells a layer's smaller group from the rest, if one does."""
    assert profile.mixture is not None  # a separated layer has one
    low_N = profile.mixture.posterior_low(values_N)
    is_member_N = low_N > 0.5 if profile.is_low_minority else low_N < 0.5
    rows = np.flatnonzero(np.isfinite(values_N))
    found = associate_all(is_member_N[rows], [item.take(rows) for item in strata.values()])
    return next((item for item in found if item.explains), None)


def _within(values_N: FloatArray, strata: Strata) -> FloatArray:
    """Values as they would be if every stratum lay and spread like the typical one."""
    scale = fit_stratum_scale(values_N, strata)
    typical = float(np.median(scale.scale_R))
    flat_N = scale.standardize(values_N, strata.codes_N)
    return np.asarray(np.nanmedian(values_N) + typical * flat_N)
