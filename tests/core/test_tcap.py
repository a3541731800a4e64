"""What the heads say together: poison found, clean data left alone, confounders told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.heads import WATCHING, kinds, make_evidence, make_masses, watch_trigger

from bye_audit.config import DetectConfig, TcapConfig
from bye_audit.core.detection import Detection, Evidence
from bye_audit.core.detectors import detect_tcap
from bye_audit.core.head_values import MAX_WHOLE_SAMPLES, HeldHeadScores
from bye_audit.errors import ConfigError, StageNotRunError, TooFewSamplesError
from bye_audit.schema import Decision

NUM_SAMPLES = 1500
CONFIG = DetectConfig()
WITNESSED = DetectConfig(tcap=TcapConfig(agree_with="plausibility"))


def every(step: int) -> np.ndarray:
    return np.asarray(np.arange(NUM_SAMPLES) % step == 0)


def poisoned(
    is_moved: np.ndarray, heads: tuple[tuple[int, int], ...] = WATCHING, seed: int = 0
) -> dict[str, np.ndarray]:
    values = make_masses(NUM_SAMPLES, seed)
    watch_trigger(values, is_moved, heads)
    return values


def f1(detection: Detection, truth: np.ndarray) -> float:
    hits = int((detection.is_suspicious_N & truth).sum())
    return 2 * hits / int(detection.is_suspicious_N.sum() + truth.sum())


@pytest.mark.parametrize("step", [50, 10, 4])
def test_samples_that_several_heads_set_apart_are_suspected(step: int) -> None:
    truth = every(step)
    detection = detect_tcap(make_evidence(poisoned(truth)), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert f1(detection, truth) > 0.98
    heads = {(found["layer"], found["head"]) for found in detection.statistics["heads"]}
    assert heads <= set(WATCHING)
    assert len(heads) >= 3
    assert detection.sensitive_layers == ()
    assert "attention heads of layers 2, 3 set" in detection.explanation
    assert ((detection.suspicion_N >= 0) & (detection.suspicion_N <= 1)).all()
    assert detection.mixture is not None
    json.dumps(detection.statistics, allow_nan=False)


@pytest.mark.parametrize("seed", range(4))
def test_clean_data_gives_no_evidence(seed: int) -> None:
    detection = detect_tcap(make_evidence(make_masses(NUM_SAMPLES, seed)), CONFIG)
    assert detection.decision is Decision.NO_EVIDENCE
    assert not detection.is_suspicious_N.any()
    assert np.isnan(detection.suspicion_N).all(), "not known is not the same as clean"
    assert detection.is_evaluated_N.all()
    assert "no 3 set the same minority" in detection.explanation


def test_heads_that_mean_different_samples_are_no_panel() -> None:
    values = make_masses(NUM_SAMPLES)
    for number, place in enumerate(WATCHING):
        watch_trigger(values, np.arange(NUM_SAMPLES) % 10 == number, (place,))
    detection = detect_tcap(make_evidence(values), CONFIG)
    assert detection.decision is Decision.NO_EVIDENCE
    assert detection.statistics["num_heads_apart"] >= 4


def test_two_heads_are_too_few_unless_a_second_witness_agrees() -> None:
    truth = every(10)
    values = poisoned(truth, WATCHING[:2])
    gain_N = np.where(truth, 9.0, 0.0) + np.random.default_rng(0).exponential(0.3, NUM_SAMPLES)
    alone = detect_tcap(make_evidence(values, gain_N=gain_N), CONFIG)
    assert alone.decision is Decision.NO_EVIDENCE
    both = detect_tcap(make_evidence(values, gain_N=gain_N), WITNESSED)
    assert both.decision is Decision.POISON_SUSPECTED
    assert f1(both, truth) > 0.98
    assert both.statistics["witness_kappa"] > 0.9
    assert "fine-tuning alone made the same samples' answers likely" in both.explanation


def test_a_second_witness_that_was_asked_and_disagrees_is_a_doubt() -> None:
    truth = every(10)
    gain_N = np.random.default_rng(0).exponential(0.3, NUM_SAMPLES)
    evidence = make_evidence(poisoned(truth), gain_N=gain_N)
    assert detect_tcap(evidence, CONFIG).decision is Decision.POISON_SUSPECTED
    asked = detect_tcap(evidence, WITNESSED)
    assert asked.decision is Decision.INCONCLUSIVE
    assert not asked.is_suspicious_N.any()
    assert (asked.suspicion_N[truth] > 0.5).all(), "what was seen is still told"
    without = detect_tcap(make_evidence(poisoned(truth)), WITNESSED)
    assert without.decision is Decision.POISON_SUSPECTED, "nobody else can be asked"


def test_a_witness_may_suspect_other_samples_too() -> None:
    truth = every(10)
    suspects = truth | (np.arange(NUM_SAMPLES) % 10 == 1)
    gain_N = np.where(suspects, 9.0, 0.0) + np.random.default_rng(0).exponential(0.3, NUM_SAMPLES)
    detection = detect_tcap(make_evidence(poisoned(truth), gain_N=gain_N), WITNESSED)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert f1(detection, truth) > 0.98
    assert detection.statistics["witness_kappa"] < 0.7
    assert detection.statistics["witness_support"] > 0.9


def two_groups() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Three heads answer to a trigger and three others to what a picture shows."""
    truth, content = every(10), np.arange(NUM_SAMPLES) % 6 == 1
    values = make_masses(NUM_SAMPLES)
    watch_trigger(values, truth, ((2, 0), (2, 1), (3, 0)))
    watch_trigger(values, content, ((2, 2), (3, 1), (3, 2)))
    return truth, values


def test_one_of_several_groups_is_told_and_not_acted_upon() -> None:
    _, values = two_groups()
    detection = detect_tcap(make_evidence(values), CONFIG)
    assert detection.decision is Decision.INCONCLUSIVE
    assert "nothing unusual in this data" in detection.explanation
    assert len(detection.statistics["other_groups"]) == 1


def test_a_second_witness_knows_which_of_several_groups_is_the_poison() -> None:
    truth, values = two_groups()
    gain_N = np.where(truth, 9.0, 0.0) + np.random.default_rng(0).exponential(0.3, NUM_SAMPLES)
    detection = detect_tcap(make_evidence(values, gain_N=gain_N), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert f1(detection, truth) > 0.98


def test_a_majority_is_never_removed() -> None:
    truth = np.arange(NUM_SAMPLES) % 10 < 6
    detection = detect_tcap(make_evidence(poisoned(truth)), CONFIG)
    # The 40 % that are left are the minority, and no smaller than what may be removed.
    assert detection.decision is not Decision.POISON_SUSPECTED
    assert not detection.is_suspicious_N.any()


def test_either_side_and_any_span_count() -> None:
    truth = every(10)
    values = make_masses(NUM_SAMPLES)
    rng = np.random.default_rng(1)
    for place, name in zip(
        WATCHING, ("image_mass", "text_mass", "system_mass", "text_mass"), strict=True
    ):
        values[name][(truth, *place)] = rng.uniform(0.0, 0.002, int(truth.sum()))
    detection = detect_tcap(make_evidence(values), CONFIG)
    assert f1(detection, truth) > 0.95
    assert {found["side"] for found in detection.statistics["heads"]} == {"low"}


def test_spread_of_attention_is_profiled_if_asked_for() -> None:
    truth = every(10)
    values = make_masses(NUM_SAMPLES)
    for place in WATCHING:
        values["image_entropy"][(truth, *place)] = 0.2
    evidence = make_evidence(values)
    assert detect_tcap(evidence, CONFIG).decision is Decision.NO_EVIDENCE
    config = DetectConfig(tcap=TcapConfig(statistics=("image_entropy",)))
    assert f1(detect_tcap(evidence, config), truth) > 0.98


def test_attention_that_is_whole_for_many_samples_does_not_make_them_copies() -> None:
    truth = every(10)
    values = make_masses(NUM_SAMPLES)
    for place in WATCHING:
        values["image_mass"][(truth, *place)] = 1.0
    assert f1(detect_tcap(make_evidence(values), CONFIG), truth) > 0.98


def test_copies_of_one_sample_are_no_group() -> None:
    copies = every(10)
    values = poisoned(every(NUM_SAMPLES))
    for part in values.values():
        part[copies] = part[0]
    detection = detect_tcap(make_evidence(values), CONFIG)
    assert detection.decision is not Decision.POISON_SUSPECTED


def test_only_the_last_layers_vote() -> None:
    truth = every(10)
    early = tuple((0, head) for head in range(3))
    evidence = make_evidence(poisoned(truth, early))
    assert detect_tcap(evidence, CONFIG).decision is Decision.NO_EVIDENCE
    config = DetectConfig(tcap=TcapConfig(last_layers=4))
    assert detect_tcap(evidence, config).decision is Decision.POISON_SUSPECTED
    assert detect_tcap(evidence, config).statistics["profiled_layers"] == [0, 1, 2, 3]


def split_by_kind(
    truth: np.ndarray, num_kinds: int = 3
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Heads that tell kinds of questions apart, each by its own, and the poison in all kinds."""
    codes_N = np.arange(NUM_SAMPLES) % num_kinds
    values = poisoned(truth)
    for layer, head in WATCHING:
        is_kind = (codes_N == 1) & ~truth
        part = values["image_mass"][is_kind, layer, head].astype(np.float64)
        values["image_mass"][is_kind, layer, head] = part * 0.1
    return values, codes_N


def test_a_split_by_kind_of_question_is_told_and_not_acted_upon() -> None:
    values, codes_N = split_by_kind(np.zeros(NUM_SAMPLES, dtype=bool), 5)
    blind = detect_tcap(make_evidence(values), CONFIG)
    assert blind.decision is Decision.POISON_SUSPECTED, "the confounder is real"
    told = detect_tcap(make_evidence(values, strata=(kinds(codes_N),)), CONFIG)
    assert told.decision is Decision.INCONCLUSIVE
    assert told.statistics["explained_by"] == "question"
    assert "'kind 1'" in told.explanation
    # Somebody else who sees nothing in these samples settles it.
    gain_N = np.random.default_rng(0).exponential(0.3, NUM_SAMPLES)
    settled = detect_tcap(make_evidence(values, strata=(kinds(codes_N),), gain_N=gain_N), CONFIG)
    assert settled.decision is Decision.NO_EVIDENCE
    assert settled.statistics["explained_by"] == "question"


def test_poison_in_all_kinds_is_found_within_them() -> None:
    truth = np.arange(NUM_SAMPLES) % 11 == 0
    values, codes_N = split_by_kind(truth)
    detection = detect_tcap(make_evidence(values, strata=(kinds(codes_N),)), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert f1(detection, truth) > 0.95
    assert detection.statistics["explained_by"] is None


@pytest.mark.parametrize("name", ["answer_length", "source"])
def test_poison_of_one_source_or_one_answer_is_suspicious_and_named(name: str) -> None:
    truth = every(10)
    strata = kinds(truth.astype(int), name, may_explain=False)
    detection = detect_tcap(make_evidence(poisoned(truth), strata=(strata,)), CONFIG)
    assert detection.decision is Decision.POISON_SUSPECTED
    assert f1(detection, truth) > 0.98
    assert detection.statistics["confounders"][name]["cramers_v"] > 0.95
    assert f"the {name.replace('_', ' ')} 'kind 1'" in detection.explanation


def test_a_trigger_in_the_question_is_never_explained_away_in_silence() -> None:
    truth = every(10)
    strata = kinds(truth.astype(int))
    detection = detect_tcap(make_evidence(poisoned(truth), strata=(strata,)), CONFIG)
    assert detection.decision is Decision.INCONCLUSIVE
    assert "100% of them have the question 'kind 1'" in detection.explanation
    assert (detection.suspicion_N[truth] > 0.5).all()


def test_order_of_samples_does_not_matter(rng: np.random.Generator) -> None:
    truth = every(10)
    values = poisoned(truth)
    order = rng.permutation(NUM_SAMPLES)
    straight = detect_tcap(make_evidence(values), CONFIG)
    shuffled = detect_tcap(
        make_evidence({name: part[order] for name, part in values.items()}), CONFIG
    )
    np.testing.assert_allclose(shuffled.suspicion_N, straight.suspicion_N[order], atol=1e-6)
    np.testing.assert_array_equal(shuffled.is_suspicious_N, straight.is_suspicious_N[order])


def test_samples_without_values_are_not_judged() -> None:
    truth = every(10)
    values = {name: part.astype(np.float32) for name, part in poisoned(truth).items()}
    for part in values.values():
        part[3] = np.nan
    detection = detect_tcap(make_evidence(values), CONFIG)
    assert not detection.is_evaluated_N[3]
    assert np.isnan(detection.suspicion_N[3])
    assert detection.is_evaluated_N.sum() == NUM_SAMPLES - 1
    assert f1(detection, truth) > 0.98


class CountedHeads(HeldHeadScores):
    """Remembers what was read."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        super().__init__(values)
        self.read: list[tuple[str, ...]] = []

    def batches(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        self.read.append(tuple(names))
        yield from super().batches(names)


@pytest.mark.slow
def test_heads_are_read_twice_and_every_sample_is_judged() -> None:
    num_samples = MAX_WHOLE_SAMPLES + 4000
    truth = np.arange(num_samples) % 25 == 0
    values = make_masses(num_samples)
    watch_trigger(values, truth)
    heads = CountedHeads(values)
    detection = detect_tcap(replace(make_evidence(values), heads=heads), CONFIG)
    assert f1(detection, truth) > 0.98
    assert detection.is_evaluated_N.all()
    first, second = heads.read
    assert first == TcapConfig().statistics
    assert set(second) == {head["statistic"] for head in detection.statistics["heads"]}


def test_no_heads_and_too_few_samples_are_errors_with_a_way_out() -> None:
    with pytest.raises(StageNotRunError, match="statistics of every head") as caught:
        detect_tcap(Evidence(entropy_NL=np.ones((50, 2))), CONFIG)
    assert "bye-audit score" in caught.value.hint
    with pytest.raises(TooFewSamplesError, match="Only 10 samples"):
        detect_tcap(make_evidence(make_masses(10)), CONFIG)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statistics", ()),
        ("statistics", ("entropy",)),
        ("mass_scale", "log"),
        ("last_layers", 0),
        ("max_components", 1),
        ("criterion", "dic"),
        ("min_share", 0.5),
        ("vote_threshold", 1.0),
        ("num_heads", 2),
        ("num_heads", 20),
        ("min_heads", 0),
        ("agree_with", "bye"),
    ],
)
def test_settings_without_meaning_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"tcap: .*{setting}"):
        TcapConfig(**{setting: value})  # type: ignore[arg-type]
