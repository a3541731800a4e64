"""The baselines of the paper's tables, which look at no evidence.

Shapes: N = samples.
"""

from __future__ import annotations

import numpy as np

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Detection, Detector, Evidence, OnLayer
from bye_audit.schema import Decision, Reason


def keep_all(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Remove nothing: "Vanilla FT" of the paper's Table 1.

    Parameters
    ----------
    evidence
        Only its number of samples is looked at.
    config, on_layer
        Not used.

    Returns
    -------
    Detection
        Without suspects.
    """
    del config, on_layer
    return _blind(
        "none",
        "No rule was applied and nothing is removed, for comparison. This says nothing about the "
        "data.",
        np.zeros(len(evidence.entropy_NL), dtype=bool),
    )


def drop_at_random(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Remove a random share: "Random Drop" of the paper's Table 1.

    Parameters
    ----------
    evidence
        Only its number of samples is looked at.
    config
        ``drop_share``, 20 % in the paper (section 5.1), and ``seed``.
    on_layer
        Not used.

    Returns
    -------
    Detection
        The dropped samples count as suspects, for they are removed, but the decision is that there
        is no evidence. Departs from the paper: it drops from all training samples, this from those
        that were scored.
    """
    del on_layer
    num_samples = len(evidence.entropy_NL)
    is_dropped_N = np.zeros(num_samples, dtype=bool)
    rng = np.random.default_rng(config.seed)
    is_dropped_N[rng.choice(num_samples, round(config.drop_share * num_samples), False)] = True
    return _blind(
        "random-drop",
        f"{is_dropped_N.sum()} of {num_samples} samples ({config.drop_share:.1%}), drawn at "
        "random, are removed for comparison. This says nothing about the data.",
        is_dropped_N,
    )


def _blind(detector: str, explanation: str, is_dropped_N: np.ndarray) -> Detection:
    unknown_N = np.full(is_dropped_N.shape, np.nan)
    return Detection(
        detector=detector,
        decision=Decision.NO_EVIDENCE,
        explanation=explanation,
        suspicion_N=unknown_N,
        is_suspicious_N=is_dropped_N,
        is_evaluated_N=np.ones(is_dropped_N.shape, dtype=bool),
        score_N=unknown_N.copy(),
        statistics={"num_evaluated": is_dropped_N.size},
    )


NONE = Detector(
    name="none",
    detect=keep_all,
    reason=Reason.NOT_SUSPICIOUS,
    score_label="nothing",
    is_low_suspicious=True,
    limits=("It looks at nothing.", "It serves for comparison only."),
    role="baseline",
)

RANDOM_DROP = Detector(
    name="random-drop",
    detect=drop_at_random,
    reason=Reason.RANDOM_DROP,
    score_label="nothing",
    is_low_suspicious=True,
    limits=("It looks at nothing.", "It serves for comparison only."),
    role="baseline",
)
