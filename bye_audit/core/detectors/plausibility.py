"""Samples whose answer only the fine-tuned model finds likely.

Shapes: N = samples.
"""

from __future__ import annotations

import numpy as np

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Detection, Detector, Evidence, OnLayer
from bye_audit.core.detectors.high_scores import judge_high_scores
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
    more than one the base model could have given. :func:`judge_high_scores` says how gains become
    suspicion.
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
    return judge_high_scores(
        "plausibility",
        score_N,
        score_name="a likelihood gain",
        found="Fine-tuning raised the likelihood of some answers far more than of the others "
        "(mean gain",
        nothing="Fine-tuning raised the likelihood of all answers alike: the gains of {count} "
        "samples show no separate group. No evidence of a fixed, implausible target.",
        suspects="an implausible answer",
        unit="nats a token",
        config=config,
    )


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
