"""What resamples of the same data would have made of the layers, and whom they would suspect.

Shapes: N = samples, L = decoder layers, B = resamples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, LayerRule, aggregate_entropy
from bye_audit.core.clustering import split_low
from bye_audit.core.stability import (
    ResampledMixtures,
    jaccard,
    judged_rows,
    resample_mixtures,
    spread_of,
)

# The share of resamples that select a layer this far below the threshold is none.
_LEAST_RELATIVE_BSI = 0.5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResampledLayers:
    """Mixtures of every layer that may be sensitive, on resamples.

    Parameters
    ----------
    by_layer
        Resampled mixtures by layer; the others are taken to be sensitive in none.
    num_resamples
        Resamples B.
    rule
        What makes a layer sensitive.
    """

    by_layer: dict[int, ResampledMixtures]
    num_resamples: int
    rule: LayerRule

    def sensitive_layers(self) -> list[tuple[int, ...]]:
        """Layers that the rule selects, for each resample."""
        return [
            tuple(
                layer
                for layer, resampled in self.by_layer.items()
                if self.rule.selects(resampled.mixture(b), float(resampled.delta_bic_B[b]))
            )
            for b in range(self.num_resamples)
        ]

    def to_json(self) -> dict[str, Any]:
        """BSI of each layer over the resamples, and how often which layers are sensitive."""
        selected = self.sensitive_layers()
        return {
            "num_resamples": self.num_resamples,
            "share_with_a_sensitive_layer": sum(map(bool, selected)) / self.num_resamples,
            "layers": {
                str(layer): {
                    **spread_of(resampled.separations()),
                    "share_sensitive": sum(layer in layers for layers in selected)
                    / self.num_resamples,
                }
                for layer, resampled in self.by_layer.items()
            },
        }


def resample_layers(
    entropy_NL: NDArray[np.float64],
    profiles: list[LayerProfile],
    rule: LayerRule,
    config: DetectConfig,
) -> ResampledLayers:
    """Fit resamples of the layers that have two modes at least half as far apart as is needed.

    Layers are resampled one by one: that they share their samples changes how often they are
    selected together, not how often each is.
    """
    by_layer = {}
    for profile in profiles:
        is_far = profile.bsi >= _LEAST_RELATIVE_BSI * config.bsi_threshold
        if profile.mixture is not None and profile.has_two_modes and is_far:
            values = entropy_NL[:, profile.layer]
            by_layer[profile.layer] = resample_mixtures(
                values[np.isfinite(values)],
                num_resamples=config.resamples,
                # Resamples of several layers are draws of their own.
                seed=config.seed + profile.layer,
            )
    return ResampledLayers(by_layer=by_layer, num_resamples=config.resamples, rule=rule)


def mean_overlap(
    entropy_NL: NDArray[np.float64],
    is_suspect_N: NDArray[np.bool_],
    averaged_layers_B: list[tuple[int, ...]],
    config: DetectConfig,
) -> float:
    """Mean Jaccard index of the suspects and those of the whole rule on resamples.

    Parameters
    ----------
    entropy_NL
        Entropies as the rule saw them.
    is_suspect_N
        Suspects on all the data.
    averaged_layers_B
        Layers that each resample would average; a resample without any suspects nobody.
    config
        How samples are split.

    Returns
    -------
    float
        In [0, 1]; all resamples are judged on the same samples.
    """
    rows = judged_rows(len(entropy_NL), config.seed)
    overlaps: list[float] = []
    for layers, count in sorted(Counter(averaged_layers_B).items()):
        if not layers:
            overlaps += [jaccard(is_suspect_N[rows], np.zeros(rows.size, dtype=bool))] * count
            continue
        score_N = aggregate_entropy(entropy_NL, layers)
        resampled = resample_mixtures(
            score_N[np.isfinite(score_N)],
            num_resamples=count,
            seed=config.seed,
        )
        for b in range(count):
            split = split_low(
                resampled.values_G,
                resampled.mixture(b),
                config,
                weights_N=resampled.weights_BG[b],
            )
            # NaN is above no chance.
            suspected = split.suspicion_of(score_N[rows]) > 0.5
            overlaps.append(jaccard(is_suspect_N[rows], suspected))
    return float(np.mean(overlaps))
