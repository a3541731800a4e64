"""What each detector answers to evidence whose truth is known, and when it must not act."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.heads import kinds

from bye_audit.config import DetectConfig
from bye_audit.core.clustering import bye_suspicion
from bye_audit.core.confounders import Strata
from bye_audit.core.detectors import (
    DETECTORS,
    Detection,
    Evidence,
    detect_bye,
    detect_plausibility,
)
from bye_audit.core.detectors.high_scores import high_suspicion
from bye_audit.core.detectors.judging import judge_mixture
from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians
from bye_audit.core.tails import MIN_GAP
from bye_audit.errors import StageNotRunError, TooFewSamplesError
from bye_audit.schema import Decision

CONFIG = DetectConfig()
NUM_SAMPLES = 600


def collapsed_evidence(
    rng: np.random.Generator, rate: float = 0.1, layers: tuple[int, ...] = (1, 2)
) -> tuple[Evidence, np.ndarray]:
    """Make entropies of 4 layers, collapsed in some of them for the first samples."""
    is_poisoned = np.arange(NUM_SAMPLES) < rate * NUM_SAMPLES
    entropy_NL = rng.normal(3.5, 0.15, (NUM_SAMPLES, 4))
    for layer in layers:
        entropy_NL[is_poisoned, layer] = rng.normal(2.0, 0.15, int(is_poisoned.sum()))
    return Evidence(entropy_NL=entropy_NL), is_poisoned


def gain_evidence(gain_N: np.ndarray) -> Evidence:
    return Evidence(
        entropy_NL=np.empty((gain_N.size, 0)),
        answer_logp_N=gain_N - 3,
        answer_logp_base_N=np.full(gain_N.size, -3.0),
    )


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
def test_bye_finds_collapsed_samples(rng: np.random.Generator, rate: float) -> None:
    evidence, is_poisoned = collapsed_evidence(rng, rate)
    detection = detect_bye(evidence, CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert detection.sensitive_layers == (1, 2)
    assert (detection.is_suspicious_N == is_poisoned).mean() > 0.995
    assert ((detection.suspicion_N >= 0) & (detection.suspicion_N <= 1)).all()
    assert detection.cut is not None
    assert 2.0 < detection.cut < 3.5
    assert f"{detection.is_suspicious_N.sum()} of {NUM_SAMPLES}" in detection.explanation


def test_clean_data_gives_no_evidence_and_no_suspicion(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng, rate=0)
    detection = detect_bye(evidence, CONFIG)
    assert detection.decision is Decision.NO_EVIDENCE
    assert detection.mixture is None
    assert not detection.is_suspicious_N.any()
    assert detection.is_evaluated_N.all()
    assert np.isnan(detection.suspicion_N).all(), "not known is not the same as clean"
    assert "No evidence" in detection.explanation


def test_constant_entropies_give_no_evidence() -> None:
    detection = detect_bye(Evidence(entropy_NL=np.full((50, 3), 3.2)), CONFIG)
    assert detection.decision is Decision.NO_EVIDENCE
    assert "the same for all samples" in detection.explanation


def test_layers_bimodal_below_the_threshold_are_named(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng)
    detection = detect_bye(evidence, DetectConfig(bsi_threshold=50))
    assert detection.decision is Decision.NO_EVIDENCE
    assert "highest BSI" in detection.explanation


def test_a_clean_majority_is_never_thrown_away(rng: np.random.Generator) -> None:
    # Inverted polarity: the poison has the *spread* attention, the clean samples the low entropy.
    evidence, is_poisoned = collapsed_evidence(rng, rate=0.9)
    detection = detect_bye(evidence, CONFIG)
    assert detection.decision is Decision.INCONCLUSIVE
    assert not detection.is_suspicious_N.any()
    assert "nothing is removed" in detection.explanation
    assert detection.statistics["reversed_layers"] == [1, 2]
    assert detection.sensitive_layers == ()
    assert (detection.suspicion_N[is_poisoned] > 0.5).all(), "what was seen is still told"


def test_a_minority_in_reversed_layers_is_never_acted_upon(rng: np.random.Generator) -> None:
    # Both layers are low for most samples, their mean for the few that are low in both.
    group = np.repeat([0, 1, 2], [60, 270, NUM_SAMPLES - 330])
    means = np.array([[2.0, 2.0], [2.0, 4.0], [4.0, 2.0]])[group]
    entropy_NL = means + rng.normal(0, 0.1, means.shape)
    detection = detect_bye(Evidence(entropy_NL=entropy_NL), CONFIG)
    assert detection.statistics["reversed_layers"] == [0, 1]
    assert detection.statistics["suspicious_share"] == pytest.approx(0.1)
    assert detection.decision is Decision.INCONCLUSIVE
    assert not detection.is_suspicious_N.any()


def test_a_layer_that_is_bimodal_the_wrong_way_round_does_not_hide_a_collapse(
    rng: np.random.Generator,
) -> None:
    evidence, is_poisoned = collapsed_evidence(rng)
    # In layer 0 the poison's attention spreads as far as it collapses in the others.
    evidence.entropy_NL[is_poisoned, 0] += 2
    detection = detect_bye(evidence, CONFIG)
    assert detection.statistics["reversed_layers"] == [0]
    assert detection.sensitive_layers == (1, 2)
    assert (detection.is_suspicious_N == is_poisoned).all()


def test_the_bound_on_removal_is_the_users(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng, rate=0.3)
    detection = detect_bye(evidence, DetectConfig(max_removed_share=0.2))
    assert detection.decision is Decision.INCONCLUSIVE
    assert "at most 20%" in detection.explanation


def test_layers_that_cancel_out_are_inconclusive(rng: np.random.Generator) -> None:
    # Either layer is low for its own 46 % of the samples: their mean has one mode.
    group = np.repeat([0, 1, 2], [276, 276, NUM_SAMPLES - 552])
    means = np.array([[2.0, 4.0], [4.0, 2.0], [3.3, 3.3]])[group]
    entropy_NL = means + rng.normal(0, 0.2, means.shape)
    detection = detect_bye(Evidence(entropy_NL=entropy_NL), CONFIG)
    assert detection.sensitive_layers == (0, 1)
    assert detection.decision is Decision.INCONCLUSIVE
    assert "sets other samples apart" in detection.explanation


def test_one_mode_over_all_samples_is_inconclusive(rng: np.random.Generator) -> None:
    # Four layers set apart others each, so weakly that none is clearest and their mean has a mode.
    score_N = rng.normal(size=NUM_SAMPLES)
    fit = fit_two_gaussians(score_N)
    detection = judge_mixture(
        "bye",
        found="Something was found",
        suspects="low scores",
        fit=fit,
        mixture=fit.mixture,
        cut=None,
        suspicious_weight=0.1,
        score_N=score_N,
        suspicion_N=np.where(score_N < -2, 1.0, 0.0),
        config=CONFIG,
        layers=[],
        statistics={},
    )
    assert detection.decision is Decision.INCONCLUSIVE
    assert "one group describes" in detection.explanation


def test_a_tail_in_a_sensitive_layer_is_inconclusive(rng: np.random.Generator) -> None:
    # A main mode and 3 % scattered evenly below it: bimodal by BIC and BSI, and no group.
    entropy_NL = rng.normal(3.5, 0.1, (4000, 1))
    entropy_NL[:120, 0] = rng.uniform(1.9, 3.25, 120)
    detection = detect_bye(Evidence(entropy_NL=entropy_NL), DetectConfig(bsi_threshold=1.5))
    assert detection.sensitive_layers == (0,)
    assert detection.decision is Decision.INCONCLUSIVE
    assert detection.statistics["group"]["gap"] < MIN_GAP
    literal = detect_bye(
        Evidence(entropy_NL=entropy_NL), DetectConfig(bsi_threshold=1.5, guards=False)
    )
    assert literal.decision is Decision.POISON_SUSPECTED
    assert literal.is_suspicious_N.sum() > 50


@pytest.mark.parametrize("copied", [-3.0, 0.0], ids=["copies", "saturated"])
def test_copies_of_one_sample_are_no_group(rng: np.random.Generator, copied: float) -> None:
    # 40 times the same low entropy: one sample repeated, or attention that cannot collapse further.
    entropy_N = np.concatenate([rng.normal(3.0 + copied, 0.9, 2000), np.full(40, copied)])
    detection = detect_bye(Evidence(entropy_NL=entropy_N[:, None]), CONFIG)
    assert detection.sensitive_layers == (0,)
    expected = Decision.INCONCLUSIVE if copied else Decision.POISON_SUSPECTED
    assert detection.decision is expected
    assert ("tail of the others" in detection.explanation) == bool(copied)


def test_suspects_that_change_from_draw_to_draw_are_inconclusive() -> None:
    fit = fit_two_gaussians(np.repeat([0.0, 5.0], [20, 180]) + np.tile([0, 0.1, 0.2, 0.3], 50))
    score_N = np.repeat([0.0, 5.0], [20, 180]) + np.tile([0, 0.1, 0.2, 0.3], 50)

    def judged(overlap: float) -> Detection:
        return judge_mixture(
            "bye",
            found="Something was found",
            suspects="low scores",
            fit=fit,
            mixture=fit.mixture,
            cut=2.5,
            suspicious_weight=0.1,
            score_N=score_N,
            suspicion_N=np.where(score_N < 2.5, 1.0, 0.0),
            overlap_of=lambda flags_N: overlap if flags_N.sum() == 20 else math.nan,
            config=CONFIG,
            layers=[],
            statistics={},
        )

    assert judged(0.76).decision is Decision.POISON_SUSPECTED
    assert judged(0.74).decision is Decision.INCONCLUSIVE
    assert "other draws" in judged(0.74).explanation


def test_the_clearest_layer_decides_who_is_set_apart(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng, layers=(1,))
    # In layer 0 others than the collapsed have their attention spread, and far more clearly.
    evidence.entropy_NL[200:260, 0] += 4
    detection = detect_bye(evidence, CONFIG)
    assert detection.sensitive_layers == (1,)
    assert detection.statistics["reversed_layers"] == [0]
    assert detection.decision is Decision.INCONCLUSIVE
    assert "the clearest layer (0" in detection.explanation
    assert detection.statistics["kappa_with_clearest_layer"] < 0
    # As published there is no such doubt.
    literal = detect_bye(evidence, DetectConfig(guards=False))
    assert {0, 1} <= set(literal.sensitive_layers)
    assert literal.decision is Decision.POISON_SUSPECTED


def test_a_layer_at_the_threshold_is_told_to_be_unstable(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng)
    stability = detect_bye(evidence, CONFIG).statistics["stability"]
    assert stability["share_with_a_sensitive_layer"] == 1
    layer = stability["layers"]["1"]
    assert layer["q05"] <= layer["mean"] <= layer["q95"]
    bsi = detect_bye(evidence, CONFIG).layers[1].bsi
    edge = detect_bye(evidence, DetectConfig(bsi_threshold=bsi)).statistics["stability"]
    assert 0.2 < edge["layers"]["1"]["share_sensitive"] < 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"layer_rule": "reference-code"},
        {"layers": "all"},
        {"clustering": "kmeans"},
        {"clustering": "threshold", "entropy_threshold": 2.75},
        {"guards": False},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_every_variant_finds_a_clear_collapse(
    rng: np.random.Generator, options: dict[str, Any]
) -> None:
    evidence, is_poisoned = collapsed_evidence(rng)
    detection = detect_bye(evidence, DetectConfig(**options))
    assert detection.decision is Decision.POISON_SUSPECTED
    assert (detection.is_suspicious_N == is_poisoned).mean() > 0.99
    assert detection.averaged_layers == ((0, 1, 2, 3) if "layers" in options else (1, 2))


def test_the_paper_without_guards_throws_a_clean_majority_away(rng: np.random.Generator) -> None:
    evidence, is_poisoned = collapsed_evidence(rng, rate=0.9)
    detection = detect_bye(evidence, DetectConfig(guards=False))
    assert detection.decision is Decision.POISON_SUSPECTED
    assert (detection.is_suspicious_N == is_poisoned).all()
    assert "stability" not in detection.statistics


def test_a_threshold_in_nats_or_percent_is_the_same_for_one_size(
    rng: np.random.Generator,
) -> None:
    tokens_N = np.full(NUM_SAMPLES, 576)
    entropy_NL = np.where(np.arange(NUM_SAMPLES) < 60, 3.0, 5.5)[:, None] + rng.normal(
        0, 0.1, (NUM_SAMPLES, 3)
    )
    evidence = Evidence(entropy_NL=entropy_NL, num_image_tokens_N=tokens_N)
    nats, share = (
        detect_bye(evidence, DetectConfig(clustering="threshold", entropy_threshold=threshold))
        for threshold in (4.5, f"{450 / math.log(576)}%")
    )
    assert nats.is_suspicious_N.sum() == 60
    np.testing.assert_array_equal(nats.is_suspicious_N, share.is_suspicious_N)
    assert nats.cut == 4.5
    assert share.cut == pytest.approx(4.5 / math.log(576))
    assert [d.statistics["is_score_normalized"] for d in (nats, share)] == [False, True]


def test_eq_5_taken_literally_needs_the_mass_on_the_image(rng: np.random.Generator) -> None:
    evidence, is_poisoned = collapsed_evidence(rng)
    config = DetectConfig(entropy="literal")
    with pytest.raises(StageNotRunError, match="mass on the image tokens") as caught:
        detect_bye(evidence, config)
    assert "--entropy renormalised" in caught.value.hint
    # Poison whose attention is as spread as any, but goes to the text.
    mass_NL = np.where(is_poisoned[:, None], 0.05, 0.6) * np.ones((1, 4))
    spread = Evidence(entropy_NL=rng.normal(3.5, 0.15, (NUM_SAMPLES, 4)), image_mass_NL=mass_NL)
    assert detect_bye(spread, CONFIG).decision is Decision.NO_EVIDENCE
    literal = detect_bye(spread, config)
    np.testing.assert_array_equal(literal.is_suspicious_N, is_poisoned)


def test_a_share_as_threshold_needs_the_number_of_tokens(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng)
    with pytest.raises(StageNotRunError, match="number of image tokens"):
        detect_bye(evidence, DetectConfig(clustering="threshold", entropy_threshold="50%"))


def test_baselines_look_at_nothing(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng)
    none = DETECTORS["none"].detect(evidence, CONFIG)
    assert not none.is_suspicious_N.any()
    dropped = DETECTORS["random-drop"].detect(evidence, DetectConfig(drop_share=0.25))
    assert dropped.is_suspicious_N.sum() == NUM_SAMPLES / 4
    again = DETECTORS["random-drop"].detect(evidence, DetectConfig(drop_share=0.25))
    other = DETECTORS["random-drop"].detect(evidence, DetectConfig(drop_share=0.25, seed=1))
    np.testing.assert_array_equal(dropped.is_suspicious_N, again.is_suspicious_N)
    assert (dropped.is_suspicious_N != other.is_suspicious_N).any()
    # Nothing is known of the data, so nothing is said of it.
    assert {none.decision, dropped.decision} == {Decision.NO_EVIDENCE}
    assert "says nothing about the data" in dropped.explanation
    assert [d.name for d in DETECTORS.values() if d.role == "baseline"] == ["none", "random-drop"]


def test_image_size_alone_is_no_evidence(rng: np.random.Generator) -> None:
    # Every tenth image is a thumbnail: its raw entropies form a low mode of their own.
    tokens_N = np.where(np.arange(NUM_SAMPLES) % 10 == 0, 16, 576)
    share_NL = rng.normal(0.6, 0.02, (NUM_SAMPLES, 3))
    entropy_NL = share_NL * np.log(tokens_N)[:, None]
    raw = detect_bye(Evidence(entropy_NL=entropy_NL), CONFIG)
    assert raw.decision is Decision.POISON_SUSPECTED, "the confound is real"
    fair = detect_bye(Evidence(entropy_NL=entropy_NL, num_image_tokens_N=tokens_N), CONFIG)
    assert fair.decision is Decision.NO_EVIDENCE
    assert fair.statistics["is_entropy_normalized"] is True


def test_samples_without_a_sensitive_layers_entropy_are_not_judged(
    rng: np.random.Generator,
) -> None:
    evidence, _ = collapsed_evidence(rng)
    evidence.entropy_NL[5, 1] = math.nan
    evidence.entropy_NL[6, 0] = math.nan
    detection = detect_bye(evidence, CONFIG)
    assert not detection.is_evaluated_N[5]
    assert math.isnan(detection.suspicion_N[5])
    assert not detection.is_suspicious_N[5]
    assert detection.is_evaluated_N[6], "layer 0 is not sensitive: nobody asks for it"


def test_order_of_samples_does_not_matter(rng: np.random.Generator) -> None:
    evidence, _ = collapsed_evidence(rng)
    order = rng.permutation(NUM_SAMPLES)
    straight = detect_bye(evidence, CONFIG)
    shuffled = detect_bye(Evidence(entropy_NL=evidence.entropy_NL[order]), CONFIG)
    np.testing.assert_array_equal(shuffled.suspicion_N, straight.suspicion_N[order])
    assert shuffled.statistics == straight.statistics


def entropy_by_kind(rng: np.random.Generator, is_poisoned: np.ndarray) -> tuple[Evidence, Strata]:
    """Layer 1 looks elsewhere for every tenth kind of question, and closely at a trigger."""
    codes_N = rng.permutation(np.arange(NUM_SAMPLES) % 10 == 0).astype(int)
    entropy_NL = rng.normal(3.5, 0.1, (NUM_SAMPLES, 3))
    entropy_NL[codes_N == 1, 1] -= 2.0
    entropy_NL[is_poisoned, 1] -= 1.2
    strata = kinds(codes_N)
    return Evidence(entropy_NL=entropy_NL, strata={"question": strata}), strata


def test_a_layer_that_tells_kinds_of_questions_apart_is_told_and_not_acted_upon(
    rng: np.random.Generator,
) -> None:
    evidence, _ = entropy_by_kind(rng, np.zeros(NUM_SAMPLES, dtype=bool))
    blind = detect_bye(replace(evidence, strata={}), CONFIG)
    assert blind.decision is Decision.POISON_SUSPECTED, "the confounder is real"
    told = detect_bye(evidence, CONFIG)
    assert told.decision is Decision.INCONCLUSIVE
    assert not told.is_suspicious_N.any()
    assert told.statistics["layers_within_strata"]["1"]["name"] == "question"
    assert "100% of them have the question 'kind 1'" in told.explanation
    paper = detect_bye(evidence, DetectConfig(guards=False))
    assert "1" not in paper.statistics["layers_within_strata"], "the paper's rule knows no strata"


def test_a_collapse_in_all_kinds_of_questions_is_found_within_them(
    rng: np.random.Generator,
) -> None:
    is_poisoned = np.arange(NUM_SAMPLES) % 12 == 0
    evidence, _ = entropy_by_kind(rng, is_poisoned)
    detection = detect_bye(evidence, CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert detection.sensitive_layers == (1,)
    assert (detection.is_suspicious_N == is_poisoned).mean() > 0.99
    assert "within each question" in detection.explanation


@pytest.mark.parametrize("name", ["source", "answer_length"])
def test_a_collapse_in_one_source_or_length_stays_suspicious(
    rng: np.random.Generator, name: str
) -> None:
    evidence, is_poisoned = collapsed_evidence(rng)
    strata = kinds(is_poisoned.astype(int), name, may_explain=False)
    detection = detect_bye(replace(evidence, strata={name: strata}), CONFIG)
    assert (detection.is_suspicious_N == is_poisoned).mean() > 0.995
    assert detection.statistics["layers_within_strata"] == {}


def test_too_few_samples_is_an_error_with_a_way_out() -> None:
    with pytest.raises(TooFewSamplesError, match="Only 3 samples") as caught:
        detect_bye(Evidence(entropy_NL=np.ones((3, 4))), CONFIG)
    assert "more samples" in caught.value.hint


def test_a_wide_low_component_does_not_claim_the_far_high_side() -> None:
    mixture = TwoGaussians(mean_low=2, mean_high=3, var_low=1, var_high=0.01, weight_low=0.2)
    score_N = np.array([1.0, 3.0, 5.0, math.nan])
    assert mixture.posterior_low(score_N)[2] > 0.99
    suspicion_N = bye_suspicion(mixture, score_N)
    np.testing.assert_allclose(suspicion_N[:3], [1, 0, 0], atol=0.1)
    assert suspicion_N[2] == 0
    assert math.isnan(suspicion_N[3])


def test_plausibility_finds_answers_only_the_fine_tuned_model_likes(
    rng: np.random.Generator,
) -> None:
    is_poisoned = np.arange(NUM_SAMPLES) < 60
    gain_N = np.where(
        is_poisoned, rng.normal(13, 0.6, NUM_SAMPLES), rng.exponential(0.1, NUM_SAMPLES)
    )
    detection = detect_plausibility(gain_evidence(gain_N), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert (detection.is_suspicious_N == is_poisoned).all()
    assert detection.layers == []
    assert detection.sensitive_layers == ()


def test_a_long_tail_of_clean_gains_is_not_counted_to_the_poison(
    rng: np.random.Generator,
) -> None:
    clean_N = np.concatenate([rng.normal(3.3, 0.25, 3500), 4 + rng.exponential(1.0, 50)])
    gain_N = np.concatenate([clean_N, rng.normal(17, 0.6, 400)])
    detection = detect_plausibility(gain_evidence(gain_N), CONFIG)
    assert detection.is_suspicious_N.sum() == 400
    assert detection.is_suspicious_N[-400:].all()


def test_plausibility_of_clean_data_gives_no_evidence(rng: np.random.Generator) -> None:
    for gain_N in (rng.exponential(0.5, NUM_SAMPLES), rng.normal(0.1, 0.05, NUM_SAMPLES)):
        detection = detect_plausibility(gain_evidence(gain_N), CONFIG)
        assert detection.decision is Decision.NO_EVIDENCE
        assert not detection.is_suspicious_N.any()


def test_plausibility_of_a_majority_is_inconclusive(rng: np.random.Generator) -> None:
    gain_N = np.where(np.arange(NUM_SAMPLES) < 400, 10.0, 0.1) + rng.normal(0, 0.1, NUM_SAMPLES)
    assert detect_plausibility(gain_evidence(gain_N), CONFIG).decision is Decision.INCONCLUSIVE


def test_more_gain_is_never_less_suspicious() -> None:
    mixture = TwoGaussians(mean_low=0, mean_high=10, var_low=4, var_high=0.01, weight_low=0.9)
    suspicion_N = high_suspicion(mixture, np.linspace(-20, 40, 500))
    assert (np.diff(suspicion_N) >= -1e-12).all()
    assert suspicion_N[-1] > 0.99


def test_plausibility_without_likelihoods_names_the_stage() -> None:
    with pytest.raises(StageNotRunError, match="log-likelihoods") as caught:
        detect_plausibility(Evidence(entropy_NL=np.ones((50, 2))), CONFIG)
    assert "bye-audit score" in caught.value.hint


def test_every_detector_states_its_limits() -> None:
    for name, detector in DETECTORS.items():
        assert detector.name == name
        assert len(detector.limits) >= 2
        assert all(limit.endswith(".") for limit in detector.limits)
