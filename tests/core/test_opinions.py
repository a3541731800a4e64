"""What is added to an answer by asking the other detectors."""

from __future__ import annotations

import numpy as np

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.opinions import add_opinions

CONFIG = DetectConfig(resamples=20)
NUM_SAMPLES = 400


def evidence_of(rng: np.random.Generator, low: slice, gaining: slice | None) -> Evidence:
    """Entropies that collapse for some samples, and gains that are high for some."""
    entropy_NL = rng.normal(3.5, 0.15, (NUM_SAMPLES, 2))
    entropy_NL[low, 1] -= 1.5
    gain_N = rng.normal(0.3, 0.1, NUM_SAMPLES)
    if gaining is None:
        return Evidence(entropy_NL=entropy_NL)
    gain_N[gaining] += 10
    return Evidence(
        entropy_NL=entropy_NL, answer_logp_N=gain_N - 3, answer_logp_base_N=np.full(NUM_SAMPLES, -3)
    )


def test_a_detector_that_agrees_is_named(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng, slice(40), slice(40))
    alone = DETECTORS["bye"].detect(evidence, CONFIG)
    told = add_opinions(alone, evidence, CONFIG)
    assert told.statistics["other_detectors"] == {
        "plausibility": {"decision": "poison_suspected", "kappa": 1.0}
    }
    assert "plausibility suspects mostly the same samples (kappa 1.00)" in told.explanation


def test_disagreement_is_told_and_changes_nothing(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng, slice(40), slice(100, 140))
    alone = DETECTORS["plausibility"].detect(evidence, CONFIG)
    told = add_opinions(alone, evidence, CONFIG)
    assert "bye suspects other samples (kappa -0.11)" in told.explanation
    assert told.decision is alone.decision
    np.testing.assert_array_equal(told.is_suspicious_N, alone.is_suspicious_N)


def test_no_evidence_is_no_disagreement(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng, slice(40), slice(0))
    told = add_opinions(DETECTORS["bye"].detect(evidence, CONFIG), evidence, CONFIG)
    assert told.statistics["other_detectors"] == {
        "plausibility": {"decision": "no_evidence", "kappa": None}
    }
    assert "The detector" not in told.explanation


def test_who_cannot_be_asked_says_nothing(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng, slice(40), None)
    told = add_opinions(DETECTORS["bye"].detect(evidence, CONFIG), evidence, CONFIG)
    assert told.statistics["other_detectors"] == {}
    baseline = DETECTORS["random-drop"].detect(evidence, CONFIG)
    assert add_opinions(baseline, evidence, CONFIG) is baseline
