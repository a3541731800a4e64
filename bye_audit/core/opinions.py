"""What the other detectors say of the same data, beside the one that decides.

Shapes: N = samples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bye_audit.config import DetectConfig
from bye_audit.core.confounders import associate_all
from bye_audit.core.detection import Detection, Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.stability import MIN_KAPPA, agreement
from bye_audit.errors import StageNotRunError, TooFewSamplesError

_ASKED = ("bye", "plausibility")
"""Detectors that are quick to ask: they need no statistics of heads."""


def add_opinions(detection: Detection, evidence: Evidence, config: DetectConfig) -> Detection:
    """Ask the other detectors about the same samples and add what they say.

    Parameters
    ----------
    detection
        Answer of the detector that decides.
    evidence, config
        As it had them.

    Returns
    -------
    Detection
        The same decision and suspects. ``statistics["other_detectors"]`` has the decision of each
        that could be asked; where it suspects somebody as well, Cohen's kappa of the two sets is
        there, and in the explanation. Answers of baselines and judges stay as they are.

    Notes
    -----
    Disagreement is told and changes no decision: each detector is blind to poison that another
    sees, and one that also takes an innocent group agrees little with one that is right.
    """
    if DETECTORS[detection.detector].role not in ("witness", "specialist"):
        return detection
    said, remarks = {}, ""
    for name in _ASKED:
        if name == detection.detector:
            continue
        try:
            other = DETECTORS[name].detect(evidence, config)
        except (StageNotRunError, TooFewSamplesError):
            # Nothing to judge by is no opinion.
            continue
        kappas = agreement(
            {detection.detector: detection.is_suspicious_N, name: other.is_suspicious_N}
        )
        kappa = next(iter(kappas.values()), None)
        said[name] = {"decision": str(other.decision), "kappa": kappa}
        if kappa is not None:
            whom = "mostly the same" if kappa >= MIN_KAPPA else "other"
            remarks += f" The detector {name} suspects {whom} samples (kappa {kappa:.2f})."
    return replace(
        detection,
        explanation=detection.explanation + remarks,
        statistics={**detection.statistics, "other_detectors": said},
    )


def name_confounders(detection: Detection, evidence: Evidence) -> Detection:
    """Say what the suspects have in common besides what the detector looked at.

    Parameters
    ----------
    detection
        Any detector's answer.
    evidence
        As it had it; strata are read only if there are suspects.

    Returns
    -------
    Detection
        The same decision and suspects, and ``statistics["confounders"]``: how far each confounder
        goes together with those whose suspicion is above one half, the strongest first. Strong ones
        are in the explanation. Detectors that have seen to it themselves are left alone.
    """
    is_member_N = detection.is_evaluated_N & (detection.suspicion_N > 0.5)
    is_seen_to = "confounders" in detection.statistics
    if is_seen_to or DETECTORS[detection.detector].role == "baseline" or not is_member_N.any():
        return detection
    rows = np.flatnonzero(detection.is_evaluated_N)
    found = associate_all(is_member_N[rows], [s.take(rows) for s in evidence.strata.values()])
    remarks = [item.in_words() for item in found if item.is_telling]
    text = f" Of the suspects: {'; '.join(remarks)}." if remarks else ""
    return replace(
        detection,
        explanation=detection.explanation + text,
        statistics={
            **detection.statistics,
            "confounders": {item.name: item.to_json() for item in found},
        },
    )
