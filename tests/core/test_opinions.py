"""What is added to an answer by asking the other detectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from support.heads import kinds

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.opinions import add_opinions, name_confounders

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


def test_what_suspects_have_in_common_is_named_and_changes_nothing(
    rng: np.random.Generator,
) -> None:
    evidence = evidence_of(rng, slice(0), slice(40))
    is_suspect = np.arange(NUM_SAMPLES) < 40
    strata = {
        "source": kinds(is_suspect.astype(int), "source", may_explain=False),
        "question": kinds(np.arange(NUM_SAMPLES) % 2),
    }
    evidence = replace(evidence, strata=strata)
    alone = DETECTORS["plausibility"].detect(evidence, CONFIG)
    named = name_confounders(alone, evidence)
    assert list(named.statistics["confounders"]) == ["source", "question"]
    assert "100% of them have the source 'kind 1', as do 0% of the others" in named.explanation
    assert "the question" not in named.explanation
    assert named.decision is alone.decision
    np.testing.assert_array_equal(named.is_suspicious_N, alone.is_suspicious_N)
    assert name_confounders(named, evidence) is named, "once is enough"


def test_nothing_is_read_where_there_is_no_suspect(rng: np.random.Generator) -> None:
    class Unread(dict[str, object]):
        def values(self) -> object:  # type: ignore[override]
            raise AssertionError("strata were read")

    evidence = replace(evidence_of(rng, slice(0), slice(0)), strata=Unread())  # type: ignore[arg-type]
    clean = DETECTORS["plausibility"].detect(evidence, CONFIG)
    assert name_confounders(clean, evidence) is clean
    baseline = DETECTORS["random-drop"].detect(evidence, CONFIG)
    assert name_confounders(baseline, evidence) is baseline
