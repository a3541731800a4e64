from __future__ import annotations

import dataclasses
import html
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.sources import draw_png
from support.stored import add_sample, make_audit

from bye_audit import Audit
from bye_audit.cli.output import describe_finetune
from bye_audit.config import FinetuneConfig
from bye_audit.errors import EmptySourceError, InterruptedStageError
from bye_audit.finetune import StoredConversations, finetune_provisional
from bye_audit.store.tables import AuditTables

FAST = FinetuneConfig(epochs=1, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8)


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    return make_audit(tmp_path / "audit")


class InterruptingProgress:
    """Presses Ctrl-C after the first step."""

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[InterruptingProgress]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_the_run_record_tells_what_was_trained_on_what(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    result = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    record = tables.runs("finetune")[0].record
    assert result.is_new
    assert result.adapter_dir == Path(tables.uri, "adapters", result.run.run_id)
    assert (result.adapter_dir / "adapter_model.safetensors").is_file()
    assert record["content_digest"] == tables.content_digest()
    assert record["hyper_parameters"] == dataclasses.asdict(FAST)
    assert record["num_used"] == 8
    assert [point["step"] for point in record["loss_curve"]] == [1, 2]
    assert result.final_loss == record["loss_curve"][-1]["loss"]
    assert set(record["versions"]) == {"torch", "transformers", "peft"}


def test_a_second_call_does_nothing_and_other_settings_make_another_adapter(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    first = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    again = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert not again.is_new
    assert again.run == first.run
    other = finetune_provisional(tables, str(tiny_vlm_dir), dataclasses.replace(FAST, seed=5))
    assert other.is_new
    assert other.adapter_dir != first.adapter_dir
    assert len(tables.runs("finetune")) == 2


def test_new_samples_and_a_damaged_adapter_make_it_train_again(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    first = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    (first.adapter_dir / "adapter_model.safetensors").write_bytes(b"cut short")
    second = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert second.is_new
    assert second.run.record["adapter_digest"] == first.run.record["adapter_digest"]
    add_sample(tables, "s:8", "Say yes.", "yes", None)
    assert finetune_provisional(tables, str(tiny_vlm_dir), FAST).is_new


def test_an_interrupted_run_goes_on_under_its_own_name(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    with pytest.raises(InterruptedStageError) as caught:
        finetune_provisional(tables, str(tiny_vlm_dir), FAST, progress=InterruptingProgress())
    assert "same command" in caught.value.hint
    assert tables.runs("finetune") == []
    (unfinished,) = tables.directory("adapters").iterdir()
    result = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert result.adapter_dir == unfinished
    assert result.run.record["resumed_from_step"] == 1


def test_restart_drops_what_was_begun_and_repeats_what_was_finished(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    with pytest.raises(InterruptedStageError):
        finetune_provisional(tables, str(tiny_vlm_dir), FAST, progress=InterruptingProgress())
    (unfinished,) = tables.directory("adapters").iterdir()
    first = finetune_provisional(tables, str(tiny_vlm_dir), FAST, restart=True)
    assert not unfinished.exists()
    assert first.run.record["resumed_from_step"] == 0
    second = finetune_provisional(tables, str(tiny_vlm_dir), FAST, restart=True)
    assert second.is_new
    assert second.run.record["adapter_digest"] == first.run.record["adapter_digest"]
    # Scores may have been made with the first one.
    assert first.adapter_dir.is_dir()


def test_an_audit_without_samples_or_without_images_says_what_to_ingest(
    tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    empty = AuditTables.create(tmp_path / "empty")
    with pytest.raises(EmptySourceError, match="no samples") as caught:
        finetune_provisional(empty, str(tiny_vlm_dir), FAST)
    assert "bye-audit ingest" in caught.value.hint
    add_sample(empty, "s:0", "Hello", "hi", None)
    with pytest.raises(EmptySourceError, match="has an image") as caught:
        finetune_provisional(empty, str(tiny_vlm_dir), FAST)
    assert "ingest" in caught.value.hint


def test_broken_images_are_left_out_of_training(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    add_sample(tables, "s:8", "What is it?", "red", b"no image at all")
    result = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert (result.num_samples, result.num_left_out) == (9, 1)
    assert StoredConversations(tables).__getitems__([8, 0])[0] is None


def test_samples_with_a_video_are_left_out_of_training(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    add_sample(tables, "s:8", "<image><video>?", "red", draw_png(1)[0], unscorable="a video")
    result = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert (result.num_samples, result.num_left_out) == (9, 1)


def test_the_record_is_plain_json(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    result = finetune_provisional(tables, str(tiny_vlm_dir), FAST)
    assert json.loads(json.dumps(result.run.record, allow_nan=False)) == result.run.record


@pytest.fixture(scope="module")
def failed_audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A model that knew its world, ruined by a rate that is far too high."""
    folder = tmp_path_factory.mktemp("failed")
    make_audit(folder / "audit", num_samples=24)
    config = FinetuneConfig(epochs=1, batch_size=1, learning_rate=0.1)
    audit = Audit.open(folder / "audit").finetune("mini", config).score().profile()
    audit.filter(folder / "out", detector="bye")
    return audit.report(folder / "out" / "report.html", overlays=False)


def test_a_loss_far_above_its_start_is_recorded_and_said(failed_audit: Audit) -> None:
    result = failed_audit.finetuned
    assert result is not None
    assert result.warning is not None
    assert "its scores are no evidence" in result.warning
    assert f"Warning: {result.warning}" in describe_finetune(result)
    assert result.run.record["loss_warning"] == result.warning


def test_the_report_draws_the_curve_and_repeats_the_warning(failed_audit: Audit) -> None:
    assert failed_audit.report_path is not None
    assert failed_audit.finetuned is not None
    page = failed_audit.report_path.read_text("utf-8")
    assert html.escape(str(failed_audit.finetuned.warning)) in page
    chart = page[page.index('aria-label="Loss and learning rate') :]
    chart = chart[: chart.index("</svg>")]
    assert "var(--alarm)" in chart
    assert "Optimiser step" in chart


def test_a_training_that_went_well_warns_of_nothing(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    result = finetune_provisional(tables, str(tiny_vlm_dir), dataclasses.replace(FAST, epochs=6))
    assert result.warning is None
    assert not [line for line in describe_finetune(result) if line.startswith("Warning")]
