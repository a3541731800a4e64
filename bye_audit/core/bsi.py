"""Which decoder layers show two kinds of attention: separation, selection and aggregation.

Shapes: N = samples, L = decoder layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig, LayerRuleName
from bye_audit.core.mixture import (
    MIN_DELTA_BIC,
    MixtureFit,
    TwoGaussians,
    fit_two_gaussians,
    fit_two_gaussians_once,
)


def bimodal_separation_index(mixture: TwoGaussians) -> float:
    r"""Distance between a mixture's two means in units of their joint spread.

    Parameters
    ----------
    mixture
        One layer's fitted entropies.

    Returns
    -------
    float
        In [0, inf), dimensionless; higher means better separated. Two equal components without
        spread have 0. It does not change when every entropy is shifted or scaled.

    Raises
    ------
    ValueError
        If the joint variance is zero while the means differ, where the index has no value.

    Notes
    -----
    Equation 7 of [1]_:

    .. math:: \mathrm{BSI} = |\mu_1 - \mu_2| / \sqrt{\sigma_1^2 + \sigma_2^2}

    Departs from the paper: nowhere. The paper's released code selects layers by another rule,
    :math:`|\mu_1 - \mu_2| > 2 (\sigma_1 + \sigma_2)`, which is up to 1.41 times stricter.

    References
    ----------
    .. [1] Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025.
       arXiv:2505.16916, section 4.2.

    Examples
    --------
    >>> mixture = TwoGaussians(
    ...     mean_low=1.0, mean_high=4.0, var_low=0.5, var_high=0.5, weight_low=0.1
    ... )
    >>> bimodal_separation_index(mixture)
    3.0
    """
    distance = abs(mixture.mean_high - mixture.mean_low)
    joint_var = mixture.var_low + mixture.var_high
    if distance == 0:
        return 0.0
    if joint_var <= 0:
        raise ValueError("two components without spread but with different means have no BSI")
    return distance / math.sqrt(joint_var)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """What makes a layer sensitive.

    Parameters
    ----------
    threshold
        Least BSI; not used by ``reference-code``.
    name
        ``paper``: Eq. 7, the BSI reaches the threshold. ``reference-code``: the means are further
        apart than twice the sum of the standard deviations, as in the paper's released code.
    is_guarded
        Whether two Gaussians must also beat one beyond doubt and the low one be the minority.
        Without, Eq. 6 is fitted as the released code does, from one start: the likeliest fit of
        mere noise is often far apart.
    """

    threshold: float = 2.0
    name: LayerRuleName = "paper"
    is_guarded: bool = True

    @classmethod
    def of(cls, config: DetectConfig) -> LayerRule:
        """Rule that a detection asks for."""
        return cls(threshold=config.bsi_threshold, name=config.layer_rule, is_guarded=config.guards)

    def fit(self, values_N: NDArray[np.floating], seed: int) -> MixtureFit:
        """Fit Eq. 6."""
        if self.is_guarded:
            return fit_two_gaussians(values_N, seed=seed)
        return fit_two_gaussians_once(values_N)

    def is_separated(self, mixture: TwoGaussians | None, delta_bic: float) -> bool:
        """Whether there are two modes that are apart, whichever of them is the larger."""
        if mixture is None or (self.is_guarded and delta_bic <= MIN_DELTA_BIC):
            return False
        if self.name == "paper":
            return bimodal_separation_index(mixture) >= self.threshold
        spreads = math.sqrt(mixture.var_low) + math.sqrt(mixture.var_high)
        return mixture.mean_high - mixture.mean_low > 2 * spreads

    def selects(self, mixture: TwoGaussians | None, delta_bic: float) -> bool:
        """Whether the layer is sensitive."""
        is_low_minority = mixture is not None and mixture.weight_low < 0.5
        return self.is_separated(mixture, delta_bic) and (is_low_minority or not self.is_guarded)

    def __str__(self) -> str:
        if self.name == "paper":
            return f"BSI at least {self.threshold:g}"
        return "means further apart than twice the sum of the deviations"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerProfile:
    """How one decoder layer's entropies are distributed over the samples.

    Parameters
    ----------
    layer
        Position in the decoder, from 0.
    bsi
        Bimodal Separation Index, higher is better separated; 0 for constant entropies.
    mixture
        The two fitted components, or None if fewer than 2 samples have a value here.
    delta_bic
        BIC of one Gaussian minus BIC of two: positive where two describe the entropies better.
    is_sensitive
        Whether the :class:`LayerRule` selects the layer.
    num_values
        Samples with a value in this layer.
    """

    layer: int
    bsi: float
    mixture: TwoGaussians | None
    delta_bic: float
    is_sensitive: bool
    num_values: int

    @property
    def has_two_modes(self) -> bool:
        """Whether two Gaussians describe the entropies better than one beyond doubt."""
        return self.delta_bic > MIN_DELTA_BIC

    @property
    def is_low_minority(self) -> bool:
        """Whether fewer than half of the samples are in the low component."""
        return self.mixture is not None and self.mixture.weight_low < 0.5

    def to_json(self) -> dict[str, Any]:
        """Profile as plain values."""
        return {
            "layer": self.layer,
            "bsi": self.bsi,
            "mixture": None if self.mixture is None else self.mixture.to_json(),
            "delta_bic": self.delta_bic,
            "is_sensitive": self.is_sensitive,
            "num_values": self.num_values,
        }


def profile_layers(
    entropy_NL: NDArray[np.floating],
    rule: LayerRule | float = 2.0,
    seed: int = 0,
    on_layer: Callable[[int], None] | None = None,
) -> list[LayerProfile]:
    """Fit every layer's entropies and mark the sensitive layers (Eq. 6 and 7).

    Parameters
    ----------
    entropy_NL
        (num_samples, num_layers), comparable over samples; NaN where a sample has no value.
    rule
        What makes a layer sensitive; a number is the threshold of the default rule.
    seed
        Of the mixture fits.
    on_layer
        Called with the layer's number after each fit.

    Returns
    -------
    list of LayerProfile
        One a layer, in order. That none is sensitive is an answer.

    Notes
    -----
    Departs from the paper, unless the rule is unguarded: a layer is sensitive only if (1) two
    Gaussians describe its entropies better than one beyond doubt (BIC difference above 10): the
    likeliest mixture of plain Gaussian noise is a handful of outliers beside the rest, and its BSI
    is above 2 more often than not; (2) the low component is the minority: else the layer tells of
    a few samples whose attention is *spread*, which is no collapse, and averaged in it would hide
    one.
    """
    rule = rule if isinstance(rule, LayerRule) else LayerRule(threshold=rule)
    profiles = []
    for layer in range(entropy_NL.shape[1]):
        values = np.asarray(entropy_NL[:, layer], dtype=np.float64)
        values = values[np.isfinite(values)]
        fit = rule.fit(values, seed) if values.size >= 2 else None
        profiles.append(_layer_profile(layer, fit, rule))
        if on_layer is not None:
            on_layer(layer)
    return profiles


def _layer_profile(layer: int, fit: MixtureFit | None, rule: LayerRule) -> LayerProfile:
    if fit is None:
        return LayerProfile(
            layer=layer, bsi=0.0, mixture=None, delta_bic=0.0, is_sensitive=False, num_values=0
        )
    return LayerProfile(
        layer=layer,
        bsi=bimodal_separation_index(fit.mixture),
        mixture=fit.mixture,
        delta_bic=fit.delta_bic,
        is_sensitive=rule.selects(fit.mixture, fit.delta_bic),
        num_values=fit.num_values,
    )


def aggregate_entropy(
    entropy_NL: NDArray[np.floating], sensitive_layers: Sequence[int]
) -> NDArray[np.float64]:
    r"""Average a sample's entropies over the sensitive layers.

    Parameters
    ----------
    entropy_NL
        (num_samples, num_layers), NaN where a sample has no value.
    sensitive_layers
        At least one layer.

    Returns
    -------
    numpy.ndarray
        One value a sample, **lower is more suspicious**; NaN if a sample lacks one of the layers,
        because a mean over other layers would not compare.

    Notes
    -----
    Equation 8 of the paper:
    :math:`\bar H = \frac{1}{|\mathcal L|} \sum_{l \in \mathcal L} H^{(l)}`.
    Departs from the paper: nowhere.
    """
    if not len(sensitive_layers):
        raise ValueError("entropies cannot be aggregated over no layer")
    chosen = np.asarray(entropy_NL, dtype=np.float64)[:, list(sensitive_layers)]
    return np.asarray(chosen.mean(axis=1))
