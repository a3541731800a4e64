"""The rules that turn a sample's evidence into suspicion, and a dataset's into a decision.

Shapes: N = samples, L = decoder layers.

Every detector answers one of three things (:class:`bye_audit.schema.Decision`): no evidence, an
inconclusive picture in which nothing is removed, or suspected poison with the samples it suspects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import (
    LayerProfile,
    aggregate_entropy,
    bimodal_separation_index,
    profile_layers,
)
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.mixture import (
    MixtureFit,
    TwoGaussians,
    fit_two_gaussians,
    split_at_emptiest,
)
from bye_audit.errors import StageNotRunError, TooFewSamplesError
from bye_audit.schema import Decision, Reason

__all__ = [
    "DETECTORS",
    "Detection",
    "Detector",
    "Evidence",
    "bye_suspicion",
    "detect_bye",
    "detect_plausibility",
    "plausibility_suspicion",
]


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
    _require_enough(int(has_entropy_N.sum()), config, "an attention entropy")
    layers = profile_layers(entropy_NL, config.bsi_threshold, config.seed, on_layer)
    statistics = _layer_statistics(layers, config.bsi_threshold, evidence.has_varying_tokens)
    sensitive = [profile.layer for profile in layers if profile.is_sensitive]
    # What only reversed layers say is told and never acted upon.
    used = sensitive or statistics["reversed_layers"]
    if not used:
        return _nothing_found(
            "bye", _no_layer_text(layers, config.bsi_threshold), has_entropy_N, layers, statistics
        )
    score_N = aggregate_entropy(entropy_NL, used)
    is_evaluated_N = np.isfinite(score_N)
    _require_enough(int(is_evaluated_N.sum()), config, "an entropy in every sensitive layer")
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
    return _judge(
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


def detect_plausibility(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect the samples whose answer only the fine-tuned model finds likely.

    Parameters
    ----------
    evidence
        Log-likelihoods of every scored sample's own answer with and without the adapter.
    config
        Least separation of the two components and bounds on what may be removed.
    on_layer
        Not called: no layer is looked at.

    Returns
    -------
    Detection
        The samples of the high-gain component.

    Raises
    ------
    StageNotRunError
        If ``score`` did not compute the log-likelihoods.
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples have them.

    Notes
    -----
    Not in the paper. The gain is ``answer_logp - answer_logp_base`` in nats a token: what
    fine-tuning on this data did for the sample's own answer. A fixed implausible target gains far
    more than an answer the base model could have given. The high component is suspicious if the two
    are separated as a sensitive layer's are (Eq. 7) and it is a clear minority. Clean answers have
    a long tail of gains, which the likeliest high component would claim, so both are taken afresh
    from either side of the place where gains are rarest. Beyond either mean the posterior is held,
    so that more gain is never less suspicious.
    """
    del on_layer
    logp_N, base_N = evidence.answer_logp_N, evidence.answer_logp_base_N
    if logp_N is None or base_N is None:
        raise StageNotRunError(
            "The detector `plausibility` needs the answers' log-likelihoods, which score did not "
            "compute.",
            hint="Run `bye-audit score AUDIT` with plausibility switched on, or use "
            "`--detector bye`.",
        )
    score_N = np.asarray(logp_N, dtype=np.float64) - np.asarray(base_N, dtype=np.float64)
    is_evaluated_N = np.isfinite(score_N)
    _require_enough(int(is_evaluated_N.sum()), config, "a likelihood gain")
    fit = fit_two_gaussians(score_N[is_evaluated_N], seed=config.seed, tail="high")
    mixture = fit.mixture
    bsi = bimodal_separation_index(mixture)
    numbers = {"sample_bsi": bsi, "sample_delta_bic": fit.delta_bic}
    if not fit.has_two_modes or bsi < config.bsi_threshold:
        text = (
            "Fine-tuning raised the likelihood of all answers alike: the gains of "
            f"{int(is_evaluated_N.sum())} samples show no separate group. "
            "No evidence of a fixed, implausible target."
        )
        return _nothing_found("plausibility", text, is_evaluated_N, [], numbers)
    mixture = split_at_emptiest(score_N[is_evaluated_N], mixture)
    found = (
        "Fine-tuning raised the likelihood of some answers far more than of the others "
        f"(mean gain {mixture.mean_high:.2f} against {mixture.mean_low:.2f} nats a token, "
        f"BSI {bimodal_separation_index(mixture):.2f})"
    )
    return _judge(
        "plausibility",
        found=found,
        suspects="an implausible answer",
        fit=fit,
        mixture=mixture,
        suspicious_weight=1.0 - mixture.weight_low,
        score_N=score_N,
        suspicion_N=plausibility_suspicion(mixture, score_N),
        config=config,
        layers=[],
        statistics={},
    )


def bye_suspicion(mixture: TwoGaussians, score_N: FloatArray) -> FloatArray:
    """Chance of belonging to the low component; 0 above the high component's mean."""
    # NaN compares as False and keeps its NaN posterior.
    return np.where(score_N > mixture.mean_high, 0.0, mixture.posterior_low(score_N))


def plausibility_suspicion(mixture: TwoGaussians, score_N: FloatArray) -> FloatArray:
    """Chance of belonging to the high component, held beyond either mean."""
    # np.clip leaves NaN alone.
    held_N = np.clip(score_N, mixture.mean_low, mixture.mean_high)
    return 1.0 - mixture.posterior_low(held_N)


def _judge(
    detector: str,
    *,
    found: str,
    suspects: str,
    doubt: str = "",
    fit: MixtureFit,
    mixture: TwoGaussians,
    suspicious_weight: float,
    score_N: FloatArray,
    suspicion_N: FloatArray,
    config: DetectConfig,
    layers: list[LayerProfile],
    statistics: dict[str, Any],
) -> Detection:
    """Put a sample-level mixture through the guards."""
    is_evaluated_N = np.isfinite(score_N)
    is_flagged_N = is_evaluated_N & (suspicion_N > 0.5)
    num_flagged, num_evaluated = int(is_flagged_N.sum()), int(is_evaluated_N.sum())
    share = num_flagged / num_evaluated
    decision = Decision.INCONCLUSIVE
    if doubt:
        verdict = f"but {doubt}, which may as well be clean. Inconclusive: nothing is removed."
    elif not fit.has_two_modes:
        verdict = (
            "but over all samples one group describes the scores about as well as two. "
            "Inconclusive: nothing is removed."
        )
    elif max(share, suspicious_weight) >= config.max_removed_share:
        verdict = (
            f"but the suspicious group holds {max(share, suspicious_weight):.1%} of the samples "
            f"(at most {config.max_removed_share:.0%} may be removed): it may as well be the clean "
            "part of the data. Inconclusive: nothing is removed."
        )
    elif not num_flagged:
        decision = Decision.NO_EVIDENCE
        verdict = "but no single sample stands out. No evidence of poison."
    else:
        decision = Decision.POISON_SUSPECTED
        verdict = (
            f"and {num_flagged} of {num_evaluated} judged samples ({share:.1%}) form a group "
            f"with {suspects}. Poison is suspected."
        )
    is_removing = decision is Decision.POISON_SUSPECTED
    return Detection(
        detector=detector,
        decision=decision,
        explanation=f"{found}, {verdict}",
        suspicion_N=suspicion_N,
        is_suspicious_N=is_flagged_N if is_removing else np.zeros_like(is_flagged_N),
        is_evaluated_N=is_evaluated_N,
        score_N=score_N,
        layers=layers,
        mixture=mixture,
        cut=mixture.cut(),
        statistics={
            **statistics,
            "num_evaluated": num_evaluated,
            "num_in_suspicious_component": num_flagged,
            "suspicious_share": share,
            "suspicious_weight": suspicious_weight,
            "sample_bsi": bimodal_separation_index(mixture),
            "sample_delta_bic": fit.delta_bic,
            "mixture_start": fit.start,
        },
    )


def _nothing_found(
    detector: str,
    explanation: str,
    is_evaluated_N: NDArray[np.bool_],
    layers: list[LayerProfile],
    statistics: dict[str, Any],
) -> Detection:
    unknown_N = np.full(is_evaluated_N.shape, np.nan)
    return Detection(
        detector=detector,
        decision=Decision.NO_EVIDENCE,
        explanation=explanation,
        suspicion_N=unknown_N,
        is_suspicious_N=np.zeros(is_evaluated_N.shape, dtype=bool),
        is_evaluated_N=is_evaluated_N,
        score_N=unknown_N.copy(),
        layers=layers,
        statistics={**statistics, "num_evaluated": int(is_evaluated_N.sum())},
    )


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


def _require_enough(num_samples: int, config: DetectConfig, what: str) -> None:
    if num_samples < config.min_samples:
        raise TooFewSamplesError(
            f"Only {num_samples} samples have {what}; a decision needs at least "
            f"{config.min_samples}.",
            hint="Ingest more samples with images, or see `bye-audit query AUDIT "
            '"SELECT score_status, count(*) FROM samples GROUP BY 1"`.',
        )


DETECTORS: dict[str, Detector] = {
    "bye": Detector(
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
    ),
    "plausibility": Detector(
        name="plausibility",
        detect=detect_plausibility,
        reason=Reason.IMPLAUSIBLE_ANSWER,
        score_label="gain in the answer's mean log-likelihood, nats a token",
        is_low_suspicious=False,
        limits=(
            "It sees answers that the base model would hardly have given. A plausible target, such "
            "as a wrong option letter or a fluent false caption, is not seen.",
            "A harmless minority of answers in a form new to the base model looks the same; look "
            "at the suspected samples before you blame anyone.",
            "It says nothing about where a trigger is or whether there is one.",
        ),
    ),
}
"""Every detector by name."""
