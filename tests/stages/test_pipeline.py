"""All stages in a row on a model of a few thousand weights: what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.sources import write_llava_source

from bye_audit import Audit, DetectConfig, FinetuneConfig
from bye_audit.cli.main import bye_audit
from bye_audit.errors import StageNotRunError, TableError
from bye_audit.pipeline import resolve_model

QUICK = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, lora_rank=2)


@pytest.fixture(scope="module")
def finished(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("run")
    source = write_llava_source(folder / "data", num_samples=24)
    return Audit.open(folder / "audit").run(
        [source], tiny_vlm_dir, folder / "out", finetune=QUICK, detect=DetectConfig(min_samples=8)
    )


def test_every_stage_leaves_its_result(finished: Audit) -> None:
    assert finished.ingested is not None
    assert finished.ingested.num_samples == 24
    assert finished.finetuned is not None
    assert finished.finetuned.adapter_dir.is_dir()
    assert finished.scored is not None
    assert finished.scored.num_ok == 24
    assert finished.profiles is not None
    assert len(finished.profiles) == 3
    assert finished.filtered is not None
    assert finished.filtered.num_samples == 24
    assert finished.report_path is not None
    assert finished.report_path.read_text("utf-8").startswith("<!doctype html>")


def test_every_stage_is_on_record(finished: Audit) -> None:
    stages = [run.stage for run in finished.tables.runs()]
    assert stages == ["ingest", "finetune", "score", "profile", "confirm", "filter"]


def test_a_second_run_trains_and_scores_nothing(finished: Audit, tiny_vlm_dir: Path) -> None:
    folder = Path(finished.uri).parent
    again = Audit.open(finished.uri).run(
        [folder / "data" / "train.json"],
        tiny_vlm_dir,
        folder / "out",
        finetune=QUICK,
        detect=DetectConfig(min_samples=8),
    )
    assert again.finetuned is not None
    assert not again.finetuned.is_new
    assert again.scored is not None
    assert again.scored.num_done == 0
    assert again.filtered is not None
    assert finished.filtered is not None
    assert again.filtered.files == finished.filtered.files


def test_the_cleaned_split_is_a_source_again(finished: Audit, tmp_path: Path) -> None:
    split = Path(finished.uri).parent / "out" / "cleaned"
    assert finished.filtered is not None
    again = Audit.open(tmp_path / "audit").ingest(split)
    assert again.ingested is not None
    assert again.ingested.num_samples == finished.filtered.num_kept
    assert again.ingested.num_quarantined == 0


def test_queries_see_the_scores(finished: Audit) -> None:
    answer = finished.query("SELECT count(entropy_00) AS n, min(len(entropy)) AS l FROM samples")
    assert answer.to_pylist() == [{"n": 24, "l": 3}]


def test_the_provenance_is_the_same_in_the_tables_and_beside_the_split(finished: Audit) -> None:
    run = finished.tables.latest_run("filter")
    assert run is not None
    assert finished.filtered is not None
    written = json.loads(finished.filtered.provenance_path.read_text("utf-8"))
    assert run.record["provenance"] == written


def test_an_audit_that_is_not_there_names_the_first_command(tmp_path: Path) -> None:
    with pytest.raises(TableError) as raised:
        Audit.open(tmp_path / "audit").profile()
    assert "bye-audit ingest" in raised.value.hint


def test_scoring_needs_a_provisional_model(tmp_path: Path, llava_source: Path) -> None:
    audit = Audit.open(tmp_path / "audit").ingest(llava_source)
    with pytest.raises(StageNotRunError) as raised:
        audit.score()
    assert "bye-audit finetune" in raised.value.hint


def test_other_names_than_mini_are_left_alone() -> None:
    assert resolve_model("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    assert resolve_model(Path("models/mine")) == "models/mine"


def test_mini_is_a_folder_of_this_installation() -> None:
    assert (Path(resolve_model("mini")) / "config.json").is_file()


def test_the_commands_do_the_same(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "data", num_samples=24)

    def run(*arguments: str | Path) -> str:
        texts = [str(argument) for argument in arguments]
        result = CliRunner().invoke(bye_audit, texts, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    audit = tmp_path / "audit"
    run("ingest", audit, source)
    text = run("finetune", audit, "--model", tiny_vlm_dir, "--epochs=1", "--batch-size=8")
    assert "24 samples used" in text
    assert "never ship it" in text
    assert "24 ok" in run("score", audit)
    assert json.loads(run("score", audit, "--json"))["totals"]["ok"] == 24
    assert "layer" in run("profile", audit)
    assert "bye-audit filter" in run("confirm", audit)
    run("filter", audit, "--out", tmp_path / "out")
    run("report", audit, "--out", tmp_path / "report.html")
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")


def test_one_command_does_it_all(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "data", num_samples=24)
    arguments = ["run", str(tmp_path / "audit"), str(source), "--model", str(tiny_vlm_dir)]
    arguments += ["--out", str(tmp_path / "out"), "--epochs=1", "--batch-size=8", "--json"]
    result = CliRunner().invoke(bye_audit, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    stages = {"ingest", "finetune", "score", "layers", "confirm", "purify", "filter", "report"}
    assert set(found) == stages
    assert found["confirm"]["num_confirmed"] == 0
    assert Path(found["report"]).is_file()


def test_a_path_that_is_no_model_is_a_model_error(tmp_path: Path, llava_source: Path) -> None:
    arguments = ["run", str(tmp_path / "audit"), str(llava_source), "--model", str(tmp_path)]
    result = CliRunner().invoke(bye_audit, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 5
    assert "Hint: " in result.stderr
    assert "Traceback" not in result.stderr
