"""Who is removed when three witnesses are heard, for every combination of what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Detection, Evidence
from bye_audit.core.detectors import detect_bye, detect_consensus, detect_plausibility
from bye_audit.errors import StageNotRunError
from bye_audit.schema import Decision, Intervention

CONFIG = DetectConfig()
SAID = ["", *map(str, Intervention)]
NUM_OF_EACH = 5
NUM_UNSUSPECTED = 400


def gather(*, poisoned: bool = True) -> tuple[Evidence, list[tuple[bool, bool, str]]]:
    """Every combination of attention, plausibility and intervention, a few samples each."""
    cases = [
        case
        for case in itertools.product([True, False], [True, False], SAID)
        for _ in range(NUM_OF_EACH)
        if poisoned
    ]
    cases += [(False, False, "")] * NUM_UNSUSPECTED
    rng = np.random.default_rng(5)
    looks, likes, said = zip(*cases, strict=True)
    entropy_NL = rng.normal(3.4, 0.1, (len(cases), 3))
    entropy_NL[:, 1] = np.where(looks, rng.normal(1.2, 0.1, len(cases)), entropy_NL[:, 1])
    base_N = rng.normal(-1.0, 0.05, len(cases))
    gain_N = np.where(likes, 9.0, 0.2) + rng.normal(0, 0.05, len(cases))
    evidence = Evidence(
        entropy_NL=entropy_NL,
        num_image_tokens_N=np.full(len(cases), 81),
        answer_logp_N=base_N + gain_N - 9,
        answer_logp_base_N=base_N - 9,
        intervention_N=np.array(said, dtype=np.str_),
    )
    return evidence, cases


@pytest.fixture(scope="module")
def heard() -> tuple[Detection, list[tuple[bool, bool, str]]]:
    evidence, cases = gather()
    return detect_consensus(evidence, CONFIG), cases


def test_the_witnesses_say_what_the_cases_say() -> None:
    evidence, cases = gather()
    looks, likes, _ = zip(*cases, strict=True)
    np.testing.assert_array_equal(detect_bye(evidence, CONFIG).is_suspicious_N, looks)
    np.testing.assert_array_equal(detect_plausibility(evidence, CONFIG).is_suspicious_N, likes)


def test_removed_are_the_convicted_and_those_two_witnesses_agree_on(
    heard: tuple[Detection, list[tuple[bool, bool, str]]],
) -> None:
    detection, cases = heard
    assert detection.decision is Decision.POISON_SUSPECTED
    for removed, (looks, likes, said) in zip(detection.is_suspicious_N, cases, strict=True):
        expected = {
            "triggered": True,
            "content": False,
            "unknown": looks or likes,
            "unlearnt": likes,
            "": looks and likes,
        }[said]
        assert removed == expected, (looks, likes, said)


def test_witnesses_are_named_and_counted(
    heard: tuple[Detection, list[tuple[bool, bool, str]]],
) -> None:
    detection, cases = heard
    assert detection.witnesses_N is not None
    for names, count, (looks, likes, said) in zip(
        detection.witnesses_N, detection.score_N, cases, strict=True
    ):
        spoke = {
            "attention": looks,
            "plausibility": likes,
            "intervention": said == "triggered",
        }
        assert names == "+".join(name for name, says in spoke.items() if says)
        assert count == sum(spoke.values())
    statistics = detection.statistics
    assert statistics["num_by_intervention"] == 4 * NUM_OF_EACH
    assert statistics["num_by_given_back"] == 3 * NUM_OF_EACH


def test_suspicion_follows_the_verdict(
    heard: tuple[Detection, list[tuple[bool, bool, str]]],
) -> None:
    detection, cases = heard
    for suspicion, removed, (_, _, said) in zip(
        detection.suspicion_N, detection.is_suspicious_N, cases, strict=True
    ):
        assert 0 <= suspicion <= 1
        assert (suspicion == 1) == removed
        if said == "content":
            assert suspicion == 0


def with_interventions(evidence: Evidence, said_N: np.ndarray) -> Evidence:
    return Evidence(
        entropy_NL=evidence.entropy_NL,
        num_image_tokens_N=evidence.num_image_tokens_N,
        answer_logp_N=evidence.answer_logp_N,
        answer_logp_base_N=evidence.answer_logp_base_N,
        intervention_N=said_N,
    )


def test_nobody_suspects_clean_data() -> None:
    detection = detect_consensus(gather(poisoned=False)[0], CONFIG)
    assert detection.decision is Decision.NO_EVIDENCE
    assert not detection.is_suspicious_N.any()


def test_a_foreign_answer_that_nothing_leads_to_is_removed() -> None:
    evidence, cases = gather()
    likes_N = np.array([likes for _, likes, _ in cases])
    said_N = np.where(likes_N, Intervention.UNLEARNT, "").astype(np.str_)
    detection = detect_consensus(with_interventions(evidence, said_N), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    np.testing.assert_array_equal(detection.is_suspicious_N, likes_N)
    assert "nothing in them leads to" in detection.explanation
    assert detection.statistics["num_by_unlearnt"] == likes_N.sum()


def test_one_witness_alone_is_inconclusive() -> None:
    evidence, cases = gather()
    keep = [i for i, (looks, likes, _) in enumerate(cases) if not (looks and likes)]
    alone = Evidence(
        entropy_NL=evidence.entropy_NL[keep],
        num_image_tokens_N=np.full(len(keep), 81),
        answer_logp_N=evidence.answer_logp_N[keep],  # type: ignore[index]
        answer_logp_base_N=evidence.answer_logp_base_N[keep],  # type: ignore[index]
        intervention_N=np.full(len(keep), "", dtype=np.str_),
    )
    detection = detect_consensus(alone, CONFIG)
    assert detection.decision is Decision.INCONCLUSIVE
    assert not detection.is_suspicious_N.any()
    assert "nothing is removed" in detection.explanation


def test_a_majority_is_never_removed() -> None:
    evidence, cases = gather()
    everybody = np.full(len(cases), str(Intervention.TRIGGERED))
    detection = detect_consensus(with_interventions(evidence, everybody), CONFIG)
    assert detection.decision is Decision.INCONCLUSIVE
    assert not detection.is_suspicious_N.any()


def test_without_confirm_the_command_is_named() -> None:
    evidence = Evidence(
        entropy_NL=gather()[0].entropy_NL, num_image_tokens_N=gather()[0].num_image_tokens_N
    )
    with pytest.raises(StageNotRunError) as caught:
        detect_consensus(evidence, CONFIG)
    assert "bye-audit confirm" in caught.value.hint


def test_without_likelihoods_two_witnesses_are_heard() -> None:
    evidence, cases = gather()
    blind = Evidence(
        entropy_NL=evidence.entropy_NL,
        num_image_tokens_N=evidence.num_image_tokens_N,
        intervention_N=evidence.intervention_N,
    )
    detection = detect_consensus(blind, CONFIG)
    expected = [said == "triggered" or (said == "unknown" and looks) for looks, _, said in cases]
    np.testing.assert_array_equal(detection.is_suspicious_N, expected)
