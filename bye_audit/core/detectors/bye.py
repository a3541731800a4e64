"""The paper's detector: samples whose attention to the image collapses.

Shapes: N = samples, L = decoder layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, aggregate_entropy, profile_layers
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.detectors.judging import judge_mixture, nothing_found, require_enough
from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians
from bye_audit.schema import Reason


def detect_bye(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect the samples whose attention collapses in the sensitive layers.

    Parameters
    ----------
    evidence
        Entropies of every scored sample.
    config
        Threshold of the layers and bounds on what may be removed.
    on_layer
        Called with the layer's number after each layer's fit.

    Returns
    -------
    Detection
        The samples that the second mixture assigns to its low component.

    Raises
    ------
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples have entropies.

    Notes
    -----
    Sections 4.2 and 4.3 of [1]_, with its threshold. Departs from the paper: (1) no sensitive layer
    is an answer; (2) where the number of image tokens varies, ``H / log T`` takes the place of H;
    (3) guards may refuse a layer or a removal but never add one: two Gaussians do not
    describe a layer's or the aggregated entropies better than one beyond doubt; the low component
    of either is not a minority; a sample above the high component's mean is never suspected, even
    where the low component is so wide that it claims that side too; a sample without a sensitive
    layer's entropy is not judged.

    References
    ----------
    .. [1] Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025.
       arXiv:2505.16916, sections 4.2, 4.3.
    """
    entropy_NL = evidence.comparable_entropy()
    has_entropy_N = np.asarray(np.isfinite(entropy_NL).any(axis=1))
    require_enough(int(has_entropy_N.sum()), config, "an attention entropy")
    layers = profile_layers(entropy_NL, config.bsi_threshold, config.seed, on_layer)
    statistics = _layer_statistics(layers, config.bsi_threshold, evidence.has_varying_tokens)
    sensitive = [profile.layer for profile in layers if profile.is_sensitive]
    # What only reversed layers say is told and never acted upon.
    used = sensitive or statistics["reversed_layers"]
    if not used:
        return nothing_found(
            "bye", _no_layer_text(layers, config.bsi_threshold), has_entropy_N, layers, statistics
        )
    score_N = aggregate_entropy(entropy_NL, used)
    is_evaluated_N = np.isfinite(score_N)
    require_enough(int(is_evaluated_N.sum()), config, "an entropy in every sensitive layer")
    fit = fit_two_gaussians(score_N[is_evaluated_N], seed=config.seed)
    mixture = fit.mixture
    posterior_N = mixture.posterior_low(score_N)
    is_above_N = score_N > mixture.mean_high
    statistics["num_above_high_mean_spared"] = int((is_above_N & (posterior_N > 0.5)).sum())
    statistics["num_below_low_mean_not_assigned"] = int(
        ((score_N < mixture.mean_low) & (posterior_N <= 0.5)).sum()
    )
    found = (
        f"Attention to the image is bimodal in {_layer_names(used)} "
        f"(BSI at least {config.bsi_threshold:g})"
    )
    doubt = "" if sensitive else "most samples have the low entropies there"
    return judge_mixture(
        "bye",
        found=found,
        suspects="low attention entropy",
        doubt=doubt,
        fit=fit,
        mixture=mixture,
        suspicious_weight=mixture.weight_low,
        score_N=score_N,
        suspicion_N=bye_suspicion(mixture, score_N),
        config=config,
        layers=layers,
        statistics=statistics,
    )


def bye_suspicion(mixture: TwoGaussians, score_N: FloatArray) -> FloatArray:
    """Chance of belonging to the low component; 0 above the high component's mean."""
    # NaN compares as False and keeps its NaN posterior.
    return np.where(score_N > mixture.mean_high, 0.0, mixture.posterior_low(score_N))


def _layer_statistics(
    layers: list[LayerProfile], threshold: float, is_normalized: bool
) -> dict[str, Any]:
    sensitive = [profile for profile in layers if profile.is_sensitive]
    return {
        "is_entropy_normalized": is_normalized,
        "low_share_by_sensitive_layer": {
            str(profile.layer): profile.mixture.weight_low
            for profile in sensitive
            if profile.mixture is not None
        },
        "layers_with_one_mode": [p.layer for p in layers if not p.has_two_modes],
        "reversed_layers": [
            p.layer for p in layers if p.is_separated(threshold) and not p.is_low_minority
        ],
    }


def _layer_names(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(str(layer) for layer in layers)}"


def _no_layer_text(layers: list[LayerProfile], threshold: float) -> str:
    if not layers:
        return "There is no decoder layer to look at. No evidence of attention collapse."
    two_modes = [profile for profile in layers if profile.has_two_modes]
    if not two_modes:
        if all(profile.bsi == 0 for profile in layers):
            text = f"Attention entropy is the same for all samples in all {len(layers)} layers."
        else:
            text = f"In all {len(layers)} decoder layers attention entropy has a single mode."
    else:
        best = max(two_modes, key=lambda profile: profile.bsi)
        text = (
            f"No decoder layer is bimodal enough: the highest BSI is {best.bsi:.2f} "
            f"(layer {best.layer}), below {threshold:g}."
        )
    return f"{text} No evidence of attention collapse."


BYE = Detector(
    name="bye",
    detect=detect_bye,
    reason=Reason.LOW_ENTROPY,
    score_label="attention entropy over the sensitive layers",
    is_low_suspicious=True,
    limits=(
        "It sees triggers that draw the attention of the first answer token to a small part "
        "of the image, such as patches. Blended, warped or frequency-domain triggers and "
        "triggers in the text leave attention spread out and are not seen.",
        "It needs a provisional model that has learnt the backdoor: a poison too rare or a "
        "training too short to be learnt leaves no trace to find.",
        "Data that mixes tasks, prompt forms or image kinds can be bimodal for innocent "
        "reasons; look at the suspected samples before you blame anyone.",
    ),
)
