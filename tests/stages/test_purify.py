"""purify as a stage: what it writes, that it can be stopped, and what it refuses to mix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.stored import add_sample, make_audit

from bye_audit import schema
from bye_audit.cli.main import bye_audit
from bye_audit.config import FinetuneConfig, PurifyConfig, ScoreConfig
from bye_audit.errors import InterruptedStageError, ModelError, StageNotRunError, StaleStageError
from bye_audit.filter import filter_samples
from bye_audit.finetune import StoredConversations, finetune_provisional
from bye_audit.model.attention import AttentionProbe
from bye_audit.model.likelihood import answer_log_likelihood
from bye_audit.model.loading import load_model
from bye_audit.model.prompts import Conversation
from bye_audit.purify import PurifyResult, purify_samples
from bye_audit.purify.purifiers import PURIFIERS, ClassicalPurifier
from bye_audit.score import score_samples
from bye_audit.store.evidence import read_evidence
from bye_audit.store.tables import AuditTables

FAST = FinetuneConfig(epochs=3, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bye_audit.purify.stage._WINDOW", 2)


@pytest.fixture
def tables(tmp_path: Path, tiny_vlm_dir: Path) -> AuditTables:
    made = make_audit(tmp_path / "audit")
    score_samples(made, str(tiny_vlm_dir), None, ScoreConfig())
    return made


def purify(tables: AuditTables, model: Path, **options: Any) -> PurifyResult:
    return purify_samples(
        tables, str(model), None, PurifyConfig(batch_tokens=1, commit_seconds=1e-6), **options
    )


def rows(tables: AuditTables) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables.read_samples(
        ["sample_id", "score_status", *schema.PURIFIED_COLUMNS]
    ).to_pylist()
    return found


class BreakingProgress:
    """Breaks the stage off once some samples are done."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.after = after
        self.error = error

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[BreakingProgress]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.after -= amount
        if self.after <= 0:
            raise self.error


def test_every_sample_is_asked_again_with_its_first_image_purified(
    tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    tables = make_audit(tmp_path / "audit", 4)
    adapter_dir = finetune_provisional(tables, str(tiny_vlm_dir), FAST).adapter_dir
    score_samples(tables, str(tiny_vlm_dir), adapter_dir, ScoreConfig())
    result = purify_samples(tables, str(tiny_vlm_dir), adapter_dir)
    assert (result.num_ok, result.num_failed, result.num_purified) == (4, 0, 4)
    vlm = load_model(str(tiny_vlm_dir), adapter_dir=adapter_dir)
    stored = StoredConversations(tables)
    purifier = ClassicalPurifier()
    asked = []
    for conversation in (stored[number] for number in range(4)):
        (pixels,) = purifier.purify([np.asarray(conversation.images[0])])
        asked.append(Conversation(conversation.messages, [Image.fromarray(pixels)]))
    logp = answer_log_likelihood(vlm, asked)
    base = answer_log_likelihood(vlm, asked, use_adapter=False)
    before_NL = read_evidence(tables).evidence.entropy_NL
    with AttentionProbe(vlm.model) as probe:
        after_NL = np.concatenate(
            [probe.read(vlm.encoder.encode(c, "none").inputs).entropy_NL for c in asked]
        )
    for number, row in enumerate(rows(tables)):
        assert row["purified_answer_logp"] == pytest.approx(logp[number], rel=1e-4)
        assert row["purified_answer_logp_base"] == pytest.approx(base[number], rel=1e-4)
        assert row["purified_answer_logp_first"] != row["purified_answer_logp_base_first"]
        shift = (after_NL[number] - before_NL[number]).mean()
        assert row["purified_entropy_shift"] == pytest.approx(shift, abs=1e-4)
        assert row["purify_run"] == result.run_id
    purified = read_evidence(tables).evidence.purified
    assert purified is not None
    assert np.isfinite(purified.purified_base_logp_N).all()
    metadata = tables.column_metadata("purified_answer_logp")
    assert metadata["run"] == result.run_id
    assert metadata["purifier"] == "classical"
    assert metadata["scores"] == tables.runs("score")[0].run_id
    (run,) = tables.runs("purify")
    assert run.record["num_purified"] == 4
    assert "purifier_model" not in run.record["config"]


@pytest.mark.parametrize(
    ("error", "caught"),
    [(KeyboardInterrupt(), InterruptedStageError), (RuntimeError("killed"), RuntimeError)],
    ids=["stopped", "killed"],
)
def test_what_was_done_is_kept_and_the_next_call_does_the_rest(
    tables: AuditTables,
    tmp_path: Path,
    tiny_vlm_dir: Path,
    error: BaseException,
    caught: type[BaseException],
) -> None:
    whole = make_audit(tmp_path / "whole")
    score_samples(whole, str(tiny_vlm_dir), None, ScoreConfig())
    purify(whole, tiny_vlm_dir)
    with pytest.raises(caught):
        purify(tables, tiny_vlm_dir, progress=BreakingProgress(5, error))
    assert tables.runs("purify") == []
    num_left = tables.num_samples("purify_run IS NULL")
    assert 3 <= num_left <= 4
    assert read_evidence(tables).evidence.purified is None
    result = purify(tables, tiny_vlm_dir)
    assert result.num_ok == num_left
    for one, other in zip(rows(tables), rows(whole), strict=True):
        assert one["purify_run"] == result.run_id
        for name in schema.PURIFIED_COLUMNS[:-1]:
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_nothing_to_do_is_done_at_once_and_new_samples_join(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    first = purify(tables, tiny_vlm_dir)
    version = tables.version()
    again = purify(tables, tiny_vlm_dir)
    assert (again.num_ok, again.num_purified, again.run_id) == (0, 8, first.run_id)
    assert tables.version() == version
    assert len(tables.runs("purify")) == 1
    image = tables.load_images([tables.read_samples(["images"])["images"][0].as_py()[0]])
    add_sample(tables, "s:8", "What is it?", "red", next(iter(image.values())))
    with pytest.raises(StageNotRunError, match="1 of 9 samples"):
        purify(tables, tiny_vlm_dir)
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    assert purify(tables, tiny_vlm_dir).num_ok == 1


def test_samples_without_scores_are_left_alone(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    add_sample(tables, "s:8", "No image.", "no", None)
    add_sample(tables, "s:9", "What is it?", "red", b"broken bytes")
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    assert purify(tables, tiny_vlm_dir).num_ok == 8
    assert [row["purify_run"] is None for row in rows(tables)] == [False] * 8 + [True] * 2
    assert read_evidence(tables).evidence.purified is not None


def test_an_image_is_purified_once_for_all_its_questions(
    tables: AuditTables, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tables.load_images([tables.read_samples(["images"])["images"][0].as_py()[0]])
    add_sample(tables, "s:8", "What is it?", "red", next(iter(image.values())))
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    given: list[int] = []

    class Counting(ClassicalPurifier):
        def purify(self, images: Any) -> Any:
            given.append(len(images))
            return super().purify(images)

    monkeypatch.setitem(PURIFIERS, "classical", lambda _: Counting())
    assert purify(tables, tiny_vlm_dir).num_ok == 9
    assert sum(given) == 8


def test_answers_about_another_model_or_purifier_are_not_mixed(
    tables: AuditTables, tiny_vlm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter_dir = finetune_provisional(tables, str(tiny_vlm_dir), FAST).adapter_dir
    with pytest.raises(StaleStageError, match="adapter_digest"):
        purify_samples(tables, str(tiny_vlm_dir), adapter_dir)
    first = purify(tables, tiny_vlm_dir)
    monkeypatch.setitem(PURIFIERS, "classical", lambda _: ClassicalPurifier(num_blocks=12))
    with pytest.raises(StaleStageError, match="num_blocks 24, now 12") as caught:
        purify(tables, tiny_vlm_dir)
    assert "--restart" in caught.value.hint
    again = purify(tables, tiny_vlm_dir, restart=True)
    assert again.num_ok == 8
    assert again.run_id != first.run_id


def test_new_scores_drop_what_was_compared_with_the_old(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    purify(tables, tiny_vlm_dir)
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(), restart=True)
    assert not set(schema.PURIFIED_COLUMNS) & set(tables.sample_columns())


def test_without_scores_or_likelihoods_it_says_what_to_run(
    tmp_path: Path, tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    with pytest.raises(StageNotRunError) as caught:
        purify(make_audit(tmp_path / "new"), tiny_vlm_dir)
    assert "bye-audit score" in caught.value.hint
    bare = ScoreConfig(plausibility=False)
    score_samples(tables, str(tiny_vlm_dir), None, bare, restart=True)
    with pytest.raises(StageNotRunError, match="likelihood of each answer's first token") as caught:
        purify(tables, tiny_vlm_dir)
    assert "--restart" in caught.value.hint


def test_a_model_that_fails_on_everything_stores_nothing(
    tables: AuditTables, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoiling(ClassicalPurifier):
        def purify(self, images: Any) -> Any:
            return [np.zeros((1, 1, 3), np.uint8) for _ in images]

    def refuse(*_: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr("bye_audit.purify.stage._MOST_FAILURES", 1)
    monkeypatch.setattr("bye_audit.model.scoring.SampleScorer._measure_batch", refuse)
    monkeypatch.setitem(PURIFIERS, "classical", lambda _: Spoiling())
    with pytest.raises(ModelError, match="failed on all of the first 2"):
        purify_samples(tables, str(tiny_vlm_dir), None, PurifyConfig())
    assert tables.num_samples("purify_run IS NOT NULL") == 0


def test_filter_with_zip_needs_it_and_then_judges(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", 24)
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    with pytest.raises(StageNotRunError) as caught:
        filter_samples(tables, tmp_path / "out", detector="zip")
    assert "bye-audit purify" in caught.value.hint
    run_id = purify(tables, tiny_vlm_dir).run_id
    result = filter_samples(tables, tmp_path / "out", detector="zip")
    assert result.num_kept + result.num_removed == 24
    record = json.loads(result.provenance_path.read_text("utf-8"))
    assert record["purify"]["run_id"] == run_id
    assert record["purify"]["purifier"] == "classical"


def test_the_command_says_what_it_did(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    arguments = ["purify", tables.uri, "--model", str(tiny_vlm_dir)]
    result = CliRunner().invoke(bye_audit, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Asked about 8 samples with its image purified (classical)" in result.stdout
    assert "All 8 samples: attention entropy " in result.stdout
    assert f"Next: bye-audit filter {tables.uri} --detector zip --out DIR" in result.stdout
    again = CliRunner().invoke(bye_audit, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["num_purified"] == 8
    wrong = CliRunner().invoke(
        bye_audit, [*arguments, "--purifier", "diffusion"], catch_exceptions=False
    )
    assert wrong.exit_code == 2
    assert "--purifier-model" in wrong.stderr
