from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.stored import add_sample, make_audit

from bye_audit import schema
from bye_audit.config import FinetuneConfig, ScoreConfig
from bye_audit.errors import (
    ConfigError,
    EmptySourceError,
    InterruptedStageError,
    ModelError,
    StaleStageError,
)
from bye_audit.finetune import StoredConversations, finetune_provisional
from bye_audit.model.attention import AttentionProbe
from bye_audit.model.likelihood import answer_log_likelihood
from bye_audit.model.loading import load_model
from bye_audit.score import attention_maps, score_samples
from bye_audit.store.sql import run_query
from bye_audit.store.tables import AuditTables

CONFIG = ScoreConfig(commit_seconds=0.001, batch_tokens=1)
FAST = FinetuneConfig(epochs=1, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8)


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    return make_audit(tmp_path / "audit")


@pytest.fixture
def adapter_dir(tables: AuditTables, tiny_vlm_dir: Path) -> Path:
    return finetune_provisional(tables, str(tiny_vlm_dir), FAST).adapter_dir


class StoppingProgress:
    """Stops the stage once some samples are done."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.done = 0

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[StoppingProgress]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if self.done >= self.after:
            raise KeyboardInterrupt


def rows(tables: AuditTables) -> list[dict[str, Any]]:
    names = [name for name in tables.sample_columns() if name not in ("raw", "messages", "images")]
    found: list[dict[str, Any]] = tables.read_samples(names).to_pylist()
    return found


def test_every_sample_gets_entropies_masses_heads_and_likelihoods(
    tables: AuditTables, tiny_vlm_dir: Path, adapter_dir: Path
) -> None:
    summary = score_samples(tables, str(tiny_vlm_dir), adapter_dir, ScoreConfig())
    assert (summary.num_ok, summary.num_not_scorable, summary.num_errors) == (8, 0, 0)
    vlm = load_model(str(tiny_vlm_dir), adapter_dir=adapter_dir)
    stored = StoredConversations(tables)
    conversations = [stored[index] for index in range(8)]
    logp = answer_log_likelihood(vlm, conversations, batch_size=1)
    base = answer_log_likelihood(vlm, conversations, use_adapter=False, batch_size=1)
    with AttentionProbe(vlm.model) as probe:
        encodings = [vlm.encoder.encode(c, "none") for c in conversations]
        readings = [probe.read(e.inputs) for e in encodings]
    for row, reading, one, other in zip(rows(tables), readings, logp, base, strict=True):
        assert row["score_status"] == "ok"
        assert row["num_image_tokens"] == 81
        entropies = [row[schema.entropy_column(layer)] for layer in range(3)]
        masses = [row[schema.image_mass_column(layer)] for layer in range(3)]
        np.testing.assert_allclose(entropies, reading.entropy_NL[0], atol=1e-5)
        np.testing.assert_allclose(masses, reading.image_mass_NL[0], atol=1e-5)
        assert row["answer_logp"] == pytest.approx(one, rel=1e-5)
        assert row["answer_logp_base"] == pytest.approx(other, rel=1e-5)
    (heads,) = tables.scan_head_scores(summary.run_id, ["sample_id", "image_entropy", "num_heads"])
    by_id = {row["sample_id"]: row for row in heads.to_pylist()}
    expected = readings[3].head_entropy_NLH[0].reshape(-1)
    np.testing.assert_allclose(by_id["s:3"]["image_entropy"], expected, rtol=2e-3)


def test_entropy_columns_name_model_adapter_layer_and_run(
    tables: AuditTables, tiny_vlm_dir: Path, adapter_dir: Path
) -> None:
    summary = score_samples(tables, str(tiny_vlm_dir), adapter_dir, ScoreConfig())
    metadata = tables.column_metadata("entropy_02")
    vlm = load_model(str(tiny_vlm_dir), adapter_dir=adapter_dir)
    assert metadata["layer"] == "2"
    assert metadata["run"] == summary.run_id
    assert metadata["adapter_digest"] == vlm.adapter_digest
    assert metadata["model_digest"] == vlm.digest
    (run,) = tables.runs("score")
    assert run.run_id == summary.run_id
    assert run.record["totals"] == {"ok": 8, "not_scorable": 0, "error": 0}


def test_hard_samples_are_marked_and_never_stop_the_others(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    add_sample(tables, "s:8", "No image.", "no", None)
    add_sample(tables, "s:9", "What is it?", "red", b"broken bytes")
    image = tables.load_images([tables.read_samples(["images"])["images"][0].as_py()[0]])
    some_image = next(iter(image.values()))
    add_sample(tables, "s:10", "<image> and <image>", "red", some_image)
    summary = score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    assert (summary.num_ok, summary.num_not_scorable, summary.num_errors) == (8, 1, 2)
    hard = {row["sample_id"]: row for row in rows(tables)[8:]}
    assert hard["s:8"]["score_status"] == "not_scorable"
    assert "decoded" in hard["s:9"]["score_error"]
    assert "placeholders" in hard["s:10"]["score_error"]
    for row in hard.values():
        assert row["entropy_00"] is None
        assert row["answer_logp"] is None


def test_ctrl_c_keeps_what_was_scored_and_the_next_call_does_the_rest(
    tables: AuditTables, tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    whole = make_audit(tmp_path / "whole")
    score_samples(whole, str(tiny_vlm_dir), None, ScoreConfig())
    slow = ScoreConfig(batch_tokens=1, commit_seconds=1000)
    with pytest.raises(InterruptedStageError, match="after 4 of 8") as caught:
        score_samples(tables, str(tiny_vlm_dir), None, slow, progress=StoppingProgress(4))
    assert "same command" in caught.value.hint
    assert tables.num_samples("score_status IS NULL") == 4
    assert tables.runs("score") == []
    summary = score_samples(tables, str(tiny_vlm_dir), None, slow)
    assert summary.num_ok == 4
    for one, other in zip(rows(tables), rows(whole), strict=True):
        assert one["score_run"] == summary.run_id
        for name in ("entropy_00", "entropy_02", "image_mass_01", "answer_logp"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)
    head_ids = [
        sample_id
        for batch in tables.scan_head_scores(summary.run_id, ["sample_id"])
        for sample_id in batch["sample_id"].to_pylist()
    ]
    assert sorted(head_ids) == [f"s:{number}" for number in range(8)]


def test_nothing_to_do_is_done_at_once_and_new_samples_join_the_run(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    first = score_samples(tables, str(tiny_vlm_dir), None, CONFIG)
    version = tables.version()
    again = score_samples(tables, str(tiny_vlm_dir), None, CONFIG)
    assert again.num_done == 0
    assert again.run_id == first.run_id
    assert tables.version() == version
    assert len(tables.runs("score")) == 1
    add_sample(tables, "s:8", "No image.", "no", None)
    assert score_samples(tables, str(tiny_vlm_dir), None, CONFIG).num_not_scorable == 1


def test_scores_of_another_adapter_are_not_mixed_but_can_be_dropped(
    tables: AuditTables, tiny_vlm_dir: Path, adapter_dir: Path
) -> None:
    base = score_samples(tables, str(tiny_vlm_dir), None, CONFIG)
    with pytest.raises(StaleStageError, match="adapter_digest") as caught:
        score_samples(tables, str(tiny_vlm_dir), adapter_dir, CONFIG)
    assert "--restart" in caught.value.hint
    restarted = score_samples(tables, str(tiny_vlm_dir), adapter_dir, CONFIG, restart=True)
    assert restarted.num_ok == 8
    assert restarted.run_id != base.run_id


def test_failed_samples_are_tried_again_only_when_asked(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    add_sample(tables, "s:8", "What is it?", "red", b"broken bytes")
    assert score_samples(tables, str(tiny_vlm_dir), None, CONFIG).num_errors == 1
    assert score_samples(tables, str(tiny_vlm_dir), None, CONFIG).num_done == 0
    retry = ScoreConfig(retry_errors=True)
    assert score_samples(tables, str(tiny_vlm_dir), None, retry).num_errors == 1


def test_likelihoods_can_be_left_out(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(plausibility=False))
    assert all(row["answer_logp"] is None for row in rows(tables))
    with pytest.raises(StaleStageError, match="plausibility") as caught:
        score_samples(tables, str(tiny_vlm_dir), None, CONFIG)
    assert "--restart" in caught.value.hint


def test_a_model_that_fails_on_everything_stores_nothing(
    tmp_path: Path, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bye_audit.score.ledger._MOST_FAILURES", 2)
    tables = AuditTables.create(tmp_path / "broken")
    for number in range(3):
        add_sample(tables, f"s:{number}", "What is it?", "red", b"broken %d" % number)
    with pytest.raises(ModelError, match="all of the first 3 samples") as caught:
        score_samples(tables, str(tiny_vlm_dir), None, CONFIG)
    assert "Nothing was stored" in caught.value.hint
    assert tables.num_samples("score_status IS NULL") == 3


def test_an_empty_audit_says_what_to_do(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    with pytest.raises(EmptySourceError) as caught:
        score_samples(AuditTables.create(tmp_path / "empty"), str(tiny_vlm_dir), None, CONFIG)
    assert "bye-audit ingest" in caught.value.hint


def test_maps_come_by_sample_and_only_for_those_with_an_image(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    add_sample(tables, "s:8", "No image.", "no", None)
    wanted = ["s:1", "s:8", "'; DROP TABLE samples; --"]
    maps = attention_maps(tables, str(tiny_vlm_dir), None, wanted, [0, 2])
    assert list(maps) == ["s:1"]
    assert maps["s:1"].attention_LT.shape == (2, 81)
    assert maps["s:1"].grid == (9, 9)


def test_every_answer_of_a_conversation_is_scored_where_all_turns_are_asked_for(
    tables: AuditTables, tiny_vlm_dir: Path, adapter_dir: Path
) -> None:
    digest = tables.read_samples(["images"])["images"][0].as_py()[0]
    image = tables.load_images([digest])[digest]
    add_sample(tables, "s:8", "What color?", "red", image, more=("And where?", "at the top"))
    config = ScoreConfig(turns="all")
    summary = score_samples(tables, str(tiny_vlm_dir), adapter_dir, config)
    assert summary.num_ok == 9
    found = run_query(tables, "SELECT * FROM turn_scores").to_pylist()
    assert [(row["sample_id"], row["turn"]) for row in found] == [("s:8", 1)]
    (later,) = found
    vlm = load_model(str(tiny_vlm_dir), adapter_dir=adapter_dir)
    conversation = StoredConversations(tables)[8]
    # The oracle: what came before the second answer, as a prompt of its own.
    encoding = vlm.encoder.encode(conversation, "all")
    start, length = encoding.answers[1]
    ids = torch.cat(
        [encoding.inputs["input_ids"], torch.tensor([encoding.continuation_ids[:start]])], 1
    )
    with AttentionProbe(vlm.model) as probe:
        reading = probe.read({"input_ids": ids, "pixel_values": encoding.inputs["pixel_values"]})
    np.testing.assert_allclose(later["entropy"], reading.entropy_NL[0], atol=1e-5)
    np.testing.assert_allclose(later["image_mass"], reading.image_mass_NL[0], atol=1e-5)
    whole = torch.cat([ids, torch.tensor([encoding.continuation_ids[start : start + length]])], 1)
    with torch.no_grad():
        logits = vlm.model(input_ids=whole, pixel_values=encoding.inputs["pixel_values"]).logits
    logp = logits[0, -length - 1 : -1].log_softmax(-1)
    answer = torch.tensor(encoding.continuation_ids[start : start + length])
    labelled = torch.tensor(encoding.labels[start : start + length]) >= 0
    expected = logp[labelled, answer[labelled]].mean().item()
    assert later["answer_logp"] == pytest.approx(expected, rel=1e-4)
    assert later["answer_logp_base"] != later["answer_logp"]
    with pytest.raises(StaleStageError, match="turns all, now first"):
        score_samples(tables, str(tiny_vlm_dir), adapter_dir, ScoreConfig())


def test_scores_of_another_kernel_or_of_other_layers_are_not_mixed(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(layers=(1,), plausibility=False))
    stored = rows(tables)[0]
    assert stored["entropy_01"] is not None
    assert stored["entropy_02"] is None
    with pytest.raises(StaleStageError, match="layers 1, now all"):
        score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(plausibility=False))
    assert tables.column_metadata("entropy_00")["attention"] == "sdpa"


def test_a_restart_that_cannot_begin_keeps_the_scores_there_are(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(plausibility=False))
    with pytest.raises(ConfigError, match="no layer 99: it has 0 to 2"):
        score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(layers=(99,)), restart=True)
    with pytest.raises(ConfigError, match="no device"):
        score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(device="no"), restart=True)
    assert tables.num_samples("score_status = 'ok'") == 8
