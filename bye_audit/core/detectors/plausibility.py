"""Samples whose answer only the fine-tuned model finds likely.

Shapes: N = samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import bimodal_separation_index
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.detectors.judging import judge_mixture, nothing_found, require_enough
from bye_audit.core.mixture import (
    MIN_DELTA_BIC,
    TwoGaussians,
    fit_two_gaussians,
    split_at_emptiest,
)
from bye_audit.core.stability import (
    ResampledMixtures,
    jaccard,
    judged_rows,
    resample_mixtures,
    spread_of,
)
from bye_audit.errors import StageNotRunError
from bye_audit.schema import Reason


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
    require_enough(int(is_evaluated_N.sum()), config, "a likelihood gain")
    fit = fit_two_gaussians(score_N[is_evaluated_N], seed=config.seed, tail="high")
    mixture = fit.mixture
    bsi = bimodal_separation_index(mixture)
    numbers: dict[str, Any] = {"sample_bsi": bsi, "sample_delta_bic": fit.delta_bic}
    if not fit.has_two_modes or bsi < config.bsi_threshold:
        text = (
            "Fine-tuning raised the likelihood of all answers alike: the gains of "
            f"{int(is_evaluated_N.sum())} samples show no separate group. "
            "No evidence of a fixed, implausible target."
        )
        return nothing_found("plausibility", text, is_evaluated_N, [], numbers)
    resampled = resample_mixtures(
        score_N[is_evaluated_N], num_resamples=config.resamples, seed=config.seed, tail="high"
    )
    numbers["stability"] = {
        "num_resamples": len(resampled),
        "bsi": spread_of(resampled.separations()),
    }
    mixture = split_at_emptiest(score_N[is_evaluated_N], mixture)
    found = (
        "Fine-tuning raised the likelihood of some answers far more than of the others "
        f"(mean gain {mixture.mean_high:.2f} against {mixture.mean_low:.2f} nats a token, "
        f"BSI {bimodal_separation_index(mixture):.2f})"
    )
    return judge_mixture(
        "plausibility",
        found=found,
        suspects="an implausible answer",
        fit=fit,
        mixture=mixture,
        cut=mixture.cut(),
        suspicious_weight=1.0 - mixture.weight_low,
        score_N=score_N,
        suspicion_N=plausibility_suspicion(mixture, score_N),
        overlap_of=lambda flags_N: _mean_overlap(resampled, score_N, flags_N, config),
        config=config,
        layers=[],
        statistics=numbers,
    )


def _mean_overlap(
    resampled: ResampledMixtures,
    score_N: FloatArray,
    is_suspect_N: NDArray[np.bool_],
    config: DetectConfig,
) -> float:
    """Mean Jaccard index of the suspects and those of the whole rule on resamples."""
    rows = judged_rows(score_N.size, config.seed)
    overlaps = []
    for b in range(len(resampled)):
        mixture = resampled.mixture(b)
        is_separated = (
            resampled.delta_bic_B[b] > MIN_DELTA_BIC
            and bimodal_separation_index(mixture) >= config.bsi_threshold
        )
        suspected = np.zeros(rows.size, dtype=bool)
        if is_separated:
            mixture = split_at_emptiest(
                resampled.values_G, mixture, weights_N=resampled.weights_BG[b]
            )
            suspected = plausibility_suspicion(mixture, score_N[rows]) > 0.5
        overlaps.append(jaccard(is_suspect_N[rows], suspected))
    return float(np.mean(overlaps))


def plausibility_suspicion(mixture: TwoGaussians, score_N: FloatArray) -> FloatArray:
    """Chance of belonging to the high component, held beyond either mean."""
    # np.clip leaves NaN alone.
    held_N = np.clip(score_N, mixture.mean_low, mixture.mean_high)
    return 1.0 - mixture.posterior_low(held_N)


PLAUSIBILITY = Detector(
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
)
