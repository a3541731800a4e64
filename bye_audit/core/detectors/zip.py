"""Samples whose answer the fine-tuned model loses with the fine detail of the image.

Shapes: N = samples.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.detection import (
    Detection,
    Detector,
    Evidence,
    FloatArray,
    OnLayer,
    PurifiedAnswers,
)
from bye_audit.core.detectors.high_scores import judge_high_scores
from bye_audit.errors import StageNotRunError
from bye_audit.schema import Reason

MIN_FALL = math.log(2)
"""Least mean fall of suspects, in nats: the chance that their answers are begun has halved."""


def detect_zip(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect the samples whose answer hangs on detail that purifying the image destroys.

    Parameters
    ----------
    evidence
        What ``purify`` measured.
    config
        Least separation of the two components and bounds on what may be removed.
    on_layer
        Not called: no layer is looked at.

    Returns
    -------
    Detection
        The samples whose fall is in the high component.

    Raises
    ------
    StageNotRunError
        If ``purify`` was not run on all samples.
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples were asked.

    Notes
    -----
    The fall is what purifying takes from the log-likelihood of the first token of the sample's own
    answer, in nats, less what it takes under the base model: what both lose with an image's detail
    is the image's and not the fine-tuning's. The first token, because a target once begun goes on
    by itself, so that over all tokens little of its fall is left.

    Departs from the paper, which purifies what a deployed model is asked and believes the answer:
    here nothing is believed, and training samples are told from each other by what is lost.

    References
    ----------
    Shi et al., "Black-box Backdoor Defense via Zero-shot Image Purification", NeurIPS 2023.
    """
    del on_layer
    purified = evidence.purified
    if purified is None:
        raise StageNotRunError(
            "The detector `zip` needs the model's answers to purified images, which are not there "
            "for all samples.",
            hint="Run `bye-audit purify AUDIT` first.",
        )
    score_N = fall_of_answers(purified)
    detection = judge_high_scores(
        "zip",
        score_N,
        score_name="an answer to a purified image",
        found="Purifying the images took some answers from the fine-tuned model and left others "
        "(mean fall",
        nothing="Purifying the images took no group of answers from the fine-tuned model that its "
        "base did not lose as well: the falls of {count} samples show no separate group. No "
        "evidence of a trigger in the fine detail of images.",
        suspects="an answer that hangs on fine detail",
        unit="nats",
        least_mean=MIN_FALL,
        config=config,
    )
    shifts = _mean_shifts(purified.entropy_shift_N, detection.suspicion_N)
    return replace(detection, statistics={**detection.statistics, "entropy_shift": shifts})


def fall_of_answers(purified: PurifiedAnswers) -> FloatArray:
    """Give what purifying takes from the fine-tuned model's own share of each answer, in nats.

    Parameters
    ----------
    purified
        Log-likelihoods before and after. Where no sample has those of a base model, what the model
        itself loses is taken whole.

    Returns
    -------
    FloatArray
        Shape (N,); higher means that the answer hung on detail. NaN where it is not known.
    """
    fall_N = np.asarray(purified.logp_N - purified.purified_logp_N, dtype=np.float64)
    base_N = np.asarray(purified.base_logp_N - purified.purified_base_logp_N, dtype=np.float64)
    return fall_N - base_N if np.isfinite(base_N).any() else fall_N


def _mean_shifts(shift_N: NDArray[np.floating], suspicion_N: FloatArray) -> dict[str, Any]:
    """Mean shift of the attention entropy among suspects and others; None where there is none."""
    is_high_N = suspicion_N > 0.5
    is_known_N = np.isfinite(shift_N)

    def mean(chosen_N: NDArray[np.bool_]) -> float | None:
        values = np.asarray(shift_N, dtype=np.float64)[chosen_N & is_known_N]
        return float(values.mean()) if values.size else None

    return {"suspects": mean(is_high_N), "others": mean(~is_high_N)}


ZIP = Detector(
    name="zip",
    detect=detect_zip,
    reason=Reason.PURIFIED_AWAY,
    score_label="fall of the answer's first log-likelihood on the purified image, nats",
    is_low_suspicious=False,
    limits=(
        "It sees triggers that purifying destroys: noise, blends, small patches. A patch as large "
        "as what the images show survives it, and so does a trigger in the question.",
        "It looks at how an answer begins: a target that begins as ordinary answers do, or is "
        "appended to one, is not seen.",
        "Answers that rest on small print or fine texture fall as well where the base model did "
        "not know them; look at the suspected samples before you blame anyone.",
    ),
    role="specialist",
)
