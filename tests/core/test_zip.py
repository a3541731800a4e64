"""zip on falls whose truth is known, and when it must not act."""

from __future__ import annotations

import numpy as np
import pytest

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Evidence, PurifiedAnswers
from bye_audit.core.detectors import DETECTORS, Detection, detect_zip
from bye_audit.core.detectors.zip import fall_of_answers
from bye_audit.core.opinions import add_opinions
from bye_audit.errors import StageNotRunError, TooFewSamplesError
from bye_audit.schema import Decision

CONFIG = DetectConfig()
NUM_SAMPLES = 600
IS_POISONED = np.arange(NUM_SAMPLES) < 60


def answers(
    fall_N: np.ndarray, base_fall_N: np.ndarray | None = None, shift_N: np.ndarray | None = None
) -> PurifiedAnswers:
    nothing = np.full(fall_N.size, np.nan)
    return PurifiedAnswers(
        logp_N=np.full(fall_N.size, -0.1),
        purified_logp_N=-0.1 - fall_N,
        base_logp_N=nothing if base_fall_N is None else np.full(fall_N.size, -2.0),
        purified_base_logp_N=nothing if base_fall_N is None else -2.0 - base_fall_N,
        entropy_shift_N=nothing if shift_N is None else shift_N,
    )


def detect(purified: PurifiedAnswers | None) -> Detection:
    count = NUM_SAMPLES if purified is None else purified.logp_N.size
    return detect_zip(Evidence(entropy_NL=np.empty((count, 0)), purified=purified), CONFIG)


def fall(rng: np.random.Generator, poison: float, spread: float = 0.2) -> np.ndarray:
    return np.where(IS_POISONED, poison, 0.1) + rng.normal(0, spread, NUM_SAMPLES)


def test_answers_that_purifying_takes_are_suspected(rng: np.random.Generator) -> None:
    shift_N = np.where(IS_POISONED, 0.5, 0.01)
    detection = detect(answers(fall(rng, 6.0), rng.normal(0, 0.1, NUM_SAMPLES), shift_N))
    assert detection.decision is Decision.POISON_SUSPECTED
    np.testing.assert_array_equal(detection.is_suspicious_N, IS_POISONED)
    assert detection.statistics["entropy_shift"] == pytest.approx({"suspects": 0.5, "others": 0.01})
    assert "60 of 600" in detection.explanation
    assert "mean fall " in detection.explanation


def test_what_the_base_model_loses_too_is_the_images_fault(rng: np.random.Generator) -> None:
    # Sixty pictures of small print, which neither model can read any more.
    lost_N = fall(rng, 6.0)
    detection = detect(answers(lost_N, lost_N + rng.normal(0, 0.1, NUM_SAMPLES)))
    assert detection.decision is Decision.NO_EVIDENCE
    assert not detection.is_suspicious_N.any()


def test_without_a_base_model_the_fall_is_taken_whole(rng: np.random.Generator) -> None:
    detection = detect(answers(fall(rng, 6.0)))
    np.testing.assert_array_equal(detection.is_suspicious_N, IS_POISONED)
    assert detection.statistics["entropy_shift"] == {"suspects": None, "others": None}


def test_the_score_is_what_the_model_loses_less_what_its_base_loses() -> None:
    fall_N = fall_of_answers(answers(np.array([3.0, 1.0, 0.0]), np.array([1.0, np.nan, 2.0])))
    np.testing.assert_allclose(fall_N, [2.0, np.nan, -2.0])


@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["ordinary", "tiny"])
def test_falls_without_a_group_are_no_evidence(rng: np.random.Generator, scale: float) -> None:
    detection = detect(answers(scale * rng.normal(0.1, 0.2, NUM_SAMPLES)))
    assert detection.decision is Decision.NO_EVIDENCE
    assert "No evidence" in detection.explanation


def test_two_groups_that_lose_next_to_nothing_are_no_evidence(rng: np.random.Generator) -> None:
    detection = detect(answers(fall(rng, 0.5, spread=0.01)))
    assert detection.decision is Decision.NO_EVIDENCE


def test_a_majority_that_falls_removes_nothing(rng: np.random.Generator) -> None:
    fall_N = np.where(np.arange(NUM_SAMPLES) < 400, 6.0, 0.1) + rng.normal(0, 0.2, NUM_SAMPLES)
    detection = detect(answers(fall_N))
    assert detection.decision is Decision.INCONCLUSIVE
    assert not detection.is_suspicious_N.any()


def test_samples_that_could_not_be_asked_are_not_judged(rng: np.random.Generator) -> None:
    fall_N = fall(rng, 6.0)
    fall_N[[0, 599]] = np.nan
    detection = detect(answers(fall_N))
    assert not detection.is_evaluated_N[[0, 599]].any()
    assert not detection.is_suspicious_N[[0, 599]].any()
    assert detection.is_suspicious_N.sum() == 59


def test_more_fall_is_never_less_suspicious(rng: np.random.Generator) -> None:
    detection = detect(answers(fall(rng, 6.0)))
    order = np.argsort(detection.score_N)
    assert (np.diff(detection.suspicion_N[order]) >= -1e-9).all()


def test_it_says_which_stage_is_missing() -> None:
    with pytest.raises(StageNotRunError) as caught:
        detect(None)
    assert "bye-audit purify" in caught.value.hint


def test_too_few_samples_are_not_judged() -> None:
    with pytest.raises(TooFewSamplesError, match="purified image"):
        detect(answers(np.zeros(10)))


def test_a_specialist_is_told_what_the_witnesses_say(rng: np.random.Generator) -> None:
    gain_N = np.where(IS_POISONED, 8.0, 0.5) + rng.normal(0, 0.1, NUM_SAMPLES)
    evidence = Evidence(
        entropy_NL=np.empty((NUM_SAMPLES, 0)),
        answer_logp_N=gain_N - 9,
        answer_logp_base_N=np.full(NUM_SAMPLES, -9.0),
        purified=answers(fall(rng, 6.0)),
    )
    assert DETECTORS["zip"].role == "specialist"
    told = add_opinions(detect_zip(evidence, CONFIG), evidence, CONFIG)
    assert told.statistics["other_detectors"]["plausibility"]["kappa"] == 1


def test_rows_are_taken_together() -> None:
    taken = answers(np.arange(5.0), np.arange(5.0)).take(np.array([3, 1]))
    np.testing.assert_allclose(taken.purified_logp_N, [-3.1, -1.1])
    np.testing.assert_allclose(taken.purified_base_logp_N, [-5.0, -3.0])
