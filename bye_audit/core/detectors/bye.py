"""The paper's detector: samples whose attention to the image collapses.

Shapes: N = samples, L = decoder layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, LayerRule, aggregate_entropy, profile_layers
from bye_audit.core.clustering import bye_suspicion, split_low
from bye_audit.core.confounders import Association
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.detectors.judging import (
    NO_REMOVAL,
    judge_mixture,
    nothing_found,
    require_enough,
)
from bye_audit.core.gaussians import sorted_values
from bye_audit.core.mixture import TwoGaussians
from bye_audit.core.resampled_layers import ResampledLayers, mean_overlap, resample_layers
from bye_audit.core.stability import MIN_KAPPA, cohens_kappa
from bye_audit.core.starts import SortedValues
from bye_audit.core.stratified_layers import regard_strata
from bye_audit.core.tails import weigh_group
from bye_audit.schema import Decision, Reason


def detect_bye(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect the samples whose attention collapses in the sensitive layers.

    Parameters
    ----------
    evidence
        Entropies of every scored sample.
    config
        The rule's thresholds and variants, and whether the guards are on.
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
    StageNotRunError
        If the variant needs what ``score`` did not store.

    Notes
    -----
    Sections 4.2 and 4.3 of [1]_, with its threshold. Departs from the paper: (1) no sensitive layer
    is an answer; (2) where the number of image tokens varies, ``H / log T`` takes the place of H;
    (3) a sample without a sensitive layer's entropy is not judged; (4) guards may refuse a layer or
    a removal but never add one: two Gaussians do not describe a layer's or the aggregated entropies
    better than one beyond doubt; the low component of either is not a minority; the suspects may be
    the tail of the others; resamples would suspect others; the clearest layer sets other samples
    apart. A sample above the high component's mean is never suspected, even where the low component
    is so wide that it claims that side too. Without ``config.guards`` there are none of them, and
    the mixtures are fitted from one start, as the released code does.

    Variants are those of the paper's ablations and code, see
    :class:`bye_audit.config.DetectConfig`: ``layers="all"`` is "w/o BSI" and
    ``clustering="threshold"`` "w/o GMM" of its Figure 4, both together "w/o GMM + BSI".

    References
    ----------
    .. [1] Rong et al., "Backdoor Cleaning without External Guidance in MLLM Fine-tuning", 2025.
       arXiv:2505.16916, sections 4.2, 4.3, 5.4, appendices A.3 and C.
    """
    rule = LayerRule.of(config)
    entropy_NL = evidence.comparable_entropy(config.entropy)
    has_entropy_N = np.asarray(np.isfinite(entropy_NL).any(axis=1))
    require_enough(int(has_entropy_N.sum()), config, "an attention entropy")
    layers = profile_layers(entropy_NL, rule, config.seed, on_layer)
    explained: dict[int, Association] = {}
    if config.guards:
        regarded = regard_strata(entropy_NL, layers, evidence.strata, rule, config.seed)
        entropy_NL, layers, explained = regarded.entropy_NL, regarded.layers, regarded.explained
    statistics = _layer_statistics(layers, rule, evidence.has_varying_tokens)
    statistics["layers_within_strata"] = {
        str(layer): {"name": found.name, **found.to_json()} for layer, found in explained.items()
    }
    resampled = resample_layers(entropy_NL, layers, rule, config) if config.guards else None
    if resampled is not None:
        statistics["stability"] = resampled.to_json()
    used = _averaged_layers(layers, statistics["reversed_layers"], config)
    if not used:
        text = _no_layer_text(layers, rule, explained)
        nothing = nothing_found("bye", text, has_entropy_N, layers, statistics)
        return replace(nothing, decision=Decision.INCONCLUSIVE) if explained else nothing
    scored_NL, statistics["is_score_normalized"] = _entropy_to_average(evidence, config)
    if config.clustering != "threshold":
        scored_NL = entropy_NL
    score_N = aggregate_entropy(scored_NL, used)
    is_evaluated_N = np.isfinite(score_N)
    require_enough(int(is_evaluated_N.sum()), config, "an entropy in every averaged layer")
    fit = rule.fit(score_N[is_evaluated_N], config.seed)
    split = split_low(score_N[is_evaluated_N], fit.mixture, config)
    suspicion_N = split.suspicion_of(score_N)
    if config.clustering == "gmm":
        statistics |= _claims_of_the_wider(fit.mixture, score_N)
    doubt = _doubt_of_layers(layers, rule, entropy_NL, suspicion_N, config, statistics)
    return judge_mixture(
        "bye",
        found=_found_text(used, rule, config) + _explained_text(explained),
        suspects="low attention entropy",
        doubt=doubt,
        fit=fit,
        mixture=split.mixture,
        cut=split.cut,
        suspicious_weight=split.weight,
        score_N=score_N,
        suspicion_N=suspicion_N,
        overlap_of=None
        if resampled is None
        else lambda flags_N: mean_overlap(
            scored_NL, flags_N, _averaged_by_resamples(resampled, used, config), config
        ),
        config=config,
        layers=layers,
        averaged_layers=tuple(used),
        statistics=statistics,
    )


def _averaged_layers(
    layers: list[LayerProfile], reversed_layers: list[int], config: DetectConfig
) -> list[int]:
    if config.layers == "all":
        return [profile.layer for profile in layers if profile.mixture is not None]
    sensitive = [profile.layer for profile in layers if profile.is_sensitive]
    # What only reversed layers say is told and never acted upon; unguarded, none is reversed.
    return sensitive or (reversed_layers if config.guards else [])


def _averaged_by_resamples(
    resampled: ResampledLayers, used: list[int], config: DetectConfig
) -> list[tuple[int, ...]]:
    if config.layers == "all":
        return [tuple(used)] * config.resamples
    return resampled.sensitive_layers()


def _entropy_to_average(evidence: Evidence, config: DetectConfig) -> tuple[FloatArray, bool]:
    """Entropies in the unit of the threshold if there is one, and whether they are shares."""
    if config.clustering != "threshold":
        return evidence.comparable_entropy(config.entropy), evidence.has_varying_tokens
    if config.is_threshold_a_share:
        return evidence.shares(config.entropy), True
    return evidence.nats(config.entropy), False


def _claims_of_the_wider(mixture: TwoGaussians, score_N: FloatArray) -> dict[str, int]:
    """Count the samples beyond either mean that the wider component claims from the other."""
    posterior_N = mixture.posterior_low(score_N)
    is_above_N, is_below_N = score_N > mixture.mean_high, score_N < mixture.mean_low
    return {
        "num_above_high_mean_spared": int((is_above_N & (posterior_N > 0.5)).sum()),
        "num_below_low_mean_not_assigned": int((is_below_N & (posterior_N <= 0.5)).sum()),
    }


def _doubt_of_layers(
    layers: list[LayerProfile],
    rule: LayerRule,
    entropy_NL: FloatArray,
    suspicion_N: FloatArray,
    config: DetectConfig,
    statistics: dict[str, Any],
) -> str:
    """Why what the averaged layers say should not be acted upon; empty if they may be right."""
    separated = [p for p in layers if rule.is_separated(p.mixture, p.delta_bic)]
    if not config.guards or not separated:
        return ""
    if config.layers == "sensitive" and not any(profile.is_sensitive for profile in layers):
        return "most samples have the low entropies there, which may as well be clean"
    clearest = max(separated, key=lambda profile: profile.bsi)
    is_minority_N = _minority_of(clearest, entropy_NL[:, clearest.layer])
    is_judged_N = np.isfinite(suspicion_N) & np.isfinite(entropy_NL[:, clearest.layer])
    kappa = cohens_kappa(is_minority_N[is_judged_N], suspicion_N[is_judged_N] > 0.5)
    statistics["clearest_layer"] = clearest.layer
    statistics["kappa_with_clearest_layer"] = kappa
    if kappa >= MIN_KAPPA or not _is_group(clearest, entropy_NL[:, clearest.layer]):
        return ""
    return (
        f"the clearest layer ({clearest.layer}, BSI {clearest.bsi:.2f}) sets other samples apart "
        f"(kappa {kappa:.2f}), so that either may be innocent"
    )


def _minority_of(profile: LayerProfile, entropy_N: FloatArray) -> NDArray[np.bool_]:
    """Tell who is in a layer's smaller component, on its side of the larger one."""
    mixture = profile.mixture
    assert mixture is not None  # a separated layer has one
    if profile.is_low_minority:
        return bye_suspicion(mixture, entropy_N) > 0.5
    return (mixture.posterior_low(entropy_N) < 0.5) & (entropy_N > mixture.mean_low)


def _is_group(profile: LayerProfile, entropy_N: FloatArray) -> bool:
    """Whether a layer's minority is a group of its own beyond doubt."""
    mixture = profile.mixture
    cut = mixture.cut() if mixture is not None else None
    if mixture is None or cut is None:
        return False
    return weigh_group(
        SortedValues(*sorted_values(entropy_N[np.isfinite(entropy_N)])),
        cut=cut,
        center=mixture.mean_high if profile.is_low_minority else mixture.mean_low,
    ).is_beyond_doubt


def _layer_statistics(
    layers: list[LayerProfile], rule: LayerRule, is_normalized: bool
) -> dict[str, Any]:
    return {
        "is_entropy_normalized": is_normalized,
        "low_share_by_sensitive_layer": {
            str(profile.layer): profile.mixture.weight_low
            for profile in layers
            if profile.is_sensitive and profile.mixture is not None
        },
        "layers_with_one_mode": [p.layer for p in layers if not p.has_two_modes],
        "reversed_layers": [
            p.layer
            for p in layers
            if rule.is_separated(p.mixture, p.delta_bic) and not p.is_low_minority
        ],
    }


def _found_text(used: list[int], rule: LayerRule, config: DetectConfig) -> str:
    if config.layers == "all":
        return f"Averaged over all {len(used)} decoder layers"
    return f"Attention to the image is bimodal in {_layer_names(used)} ({rule})"


def _layer_names(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(str(layer) for layer in layers)}"


def _explained_text(explained: dict[int, Association]) -> str:
    """Say which layers are looked at within strata, and of what."""
    return "".join(
        f"; layer {layer} is looked at within each {found.kind}, which explains its two groups "
        f"(Cramer's V {found.cramers_v:.2f}; of the smaller, {found.in_words()})"
        for layer, found in explained.items()
    )


def _no_layer_text(
    layers: list[LayerProfile], rule: LayerRule, explained: dict[int, Association]
) -> str:
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
            f"No decoder layer is bimodal enough ({rule}): the highest BSI is {best.bsi:.2f} "
            f"(layer {best.layer})."
        )
    if explained:
        return f"{text[:-1]}{_explained_text(explained)}. {NO_REMOVAL}"
    return f"{text} No evidence of attention collapse."


BYE = Detector(
    name="bye",
    detect=detect_bye,
    reason=Reason.LOW_ENTROPY,
    score_label="attention entropy over the averaged layers",
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
