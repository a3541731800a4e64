"""profile: reads entropies, records what it found, changes no sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.scored import (
    NUM_LAYERS,
    NUM_SAMPLES,
    collapsed_entropy,
    make_ingested_audit,
    make_scored_source_audit,
    store_scores,
)

from bye_audit import schema
from bye_audit.config import DetectConfig
from bye_audit.errors import NumericError, StageNotRunError, TooFewSamplesError
from bye_audit.profiling import profile_stage
from bye_audit.store.evidence import read_evidence


def test_the_collapsed_layer_is_sensitive_and_written_down(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    columns = tables.sample_columns()
    layers = profile_stage(tables)
    assert [layer.layer for layer in layers if layer.is_sensitive] == [2]
    run = tables.latest_run("profile")
    assert run is not None
    assert run.record["sensitive_layers"] == [2]
    assert len(run.record["layers"]) == NUM_LAYERS
    assert tables.sample_columns() == columns


def test_the_same_profile_again_adds_no_run(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    assert profile_stage(tables) == profile_stage(tables)
    assert len(tables.runs("profile")) == 1
    profile_stage(tables, DetectConfig(bsi_threshold=3))
    assert len(tables.runs("profile")) == 2


def test_the_rule_of_the_reference_code_is_another_profile(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    strict = profile_stage(tables, DetectConfig(layer_rule="reference-code"))
    assert [layer.layer for layer in strict if layer.is_sensitive] == [2]
    noisy = profile_stage(tables, DetectConfig(guards=False, bsi_threshold=0))
    assert all(layer.is_sensitive for layer in noisy)
    run = tables.latest_run("profile")
    assert run is not None
    assert run.record["config"]["guards"] is False


def test_no_scores_name_the_stage_before(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    with pytest.raises(StageNotRunError, match="no scores yet") as caught:
        profile_stage(tables)
    assert "bye-audit score" in caught.value.hint


def test_half_a_score_run_says_how_much_is_missing(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    tables.add_sample_columns(schema.score_fields(NUM_LAYERS, {}))
    with pytest.raises(StageNotRunError, match="41 of 41 samples") as caught:
        profile_stage(tables)
    assert "bye-audit score" in caught.value.hint


def test_three_samples_are_too_few(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    broken = [f"train.json:{row}" for row in range(3, NUM_SAMPLES)]
    store_scores(tables, collapsed_entropy(), broken_ids=broken)
    with pytest.raises(TooFewSamplesError, match="Only 3 samples") as caught:
        profile_stage(tables)
    assert "more samples" in caught.value.hint


def test_null_entropies_are_read_as_missing_values(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    entropy_NL = collapsed_entropy()
    entropy_NL[7, 1] = np.nan
    store_scores(tables, entropy_NL)
    evidence = read_evidence(tables).evidence
    assert np.isnan(evidence.entropy_NL[7, 1])
    assert np.isnan(evidence.entropy_NL).sum() == 1
    assert evidence.answer_logp_N is None, "columns that were never filled are no evidence"
    assert profile_stage(tables)[1].num_values == NUM_SAMPLES - 1


def test_an_infinite_score_is_refused_with_its_sample(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    entropy_NL = collapsed_entropy()
    entropy_NL[7, 1] = np.inf
    store_scores(tables, entropy_NL)
    with pytest.raises(NumericError, match=r"entropy_01.*train\.json:7") as caught:
        profile_stage(tables)
    assert "--restart" in caught.value.hint
