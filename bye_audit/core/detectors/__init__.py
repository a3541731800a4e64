"""The rules that turn a sample's evidence into suspicion, and a dataset's into a decision.

Every detector answers one of three things (:class:`bye_audit.schema.Decision`): no evidence, an
inconclusive picture in which nothing is removed, or suspected poison with the samples it suspects.
Baselines stand beside them for comparison and look at nothing.
"""

from bye_audit.core.detection import Detection, Detector, Evidence
from bye_audit.core.detectors.baselines import NONE, RANDOM_DROP
from bye_audit.core.detectors.bye import BYE, detect_bye
from bye_audit.core.detectors.consensus import CONSENSUS, detect_consensus
from bye_audit.core.detectors.plausibility import (
    PLAUSIBILITY,
    detect_plausibility,
)
from bye_audit.core.detectors.tcap import TCAP, detect_tcap
from bye_audit.core.detectors.zip import ZIP, detect_zip

__all__ = [
    "DETECTORS",
    "Detection",
    "Detector",
    "Evidence",
    "detect_bye",
    "detect_consensus",
    "detect_plausibility",
    "detect_tcap",
    "detect_zip",
]

DETECTORS: dict[str, Detector] = {
    detector.name: detector
    for detector in (BYE, PLAUSIBILITY, TCAP, ZIP, CONSENSUS, NONE, RANDOM_DROP)
}
"""Every detector by name, and the baselines."""
