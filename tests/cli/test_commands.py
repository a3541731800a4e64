"""The commands as a user types them, on real tables; models come in through ``test_pipeline``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support.audits import make_scored_audit
from support.sources import llava_record, write_chat_source, write_llava_source

from bye_audit.cli.main import bye_audit

BYE = ("--detector", "bye")


def _run(*arguments: str | Path) -> Result:
    # No catching: an exception that is none of ours must fail the test.
    return CliRunner().invoke(
        bye_audit, [str(argument) for argument in arguments], catch_exceptions=False
    )


@pytest.fixture
def scored_audit(tmp_path: Path) -> Path:
    make_scored_audit(tmp_path / "audit")
    return tmp_path / "audit"


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    result = _run("--help")
    listed = result.stdout[result.stdout.index("Commands:") :].split("\n")[1:]
    names = [line.split()[0] for line in listed if line.strip()]
    assert names == [
        "ingest", "plan", "finetune", "score", "profile", "confirm", "purify", "filter", "report",
        "query", "run", "canary", "demo",
    ]  # fmt: skip


def test_ingest_says_what_it_read_and_what_comes_next(tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "data", num_samples=3)
    result = _run("ingest", tmp_path / "my audit", source)
    assert result.exit_code == 0
    assert "Read 3 rows: 3 samples, 0 quarantined, 3 images." in result.stdout
    assert f"Next: bye-audit finetune '{tmp_path}/my audit' --model MODEL" in result.stdout


def test_a_dry_run_shows_what_is_recognised_and_writes_nothing(tmp_path: Path) -> None:
    hostile = llava_record(7, "x\x1b[2J", "../../secret.png")
    source = write_llava_source(tmp_path / "data", num_samples=2, extra=[hostile])
    chats = write_chat_source(tmp_path / "chats", 1)
    result = _run("ingest", tmp_path / "audit", source, chats, "--dry-run")
    assert result.exit_code == 0
    assert f"{source}: LLaVA records (JSON array)" in result.stdout
    assert f"{chats}: OpenAI chat records (JSON lines)" in result.stdout
    assert result.stdout.count("    user: <image>") == 3
    assert "path_escapes_root" in result.stdout
    assert "\x1b" not in result.stdout
    assert not (tmp_path / "audit").exists()
    shown = json.loads(_run("ingest", tmp_path / "audit", source, "--dry-run", "--json").stdout)
    assert [example["row"] for example in shown[0]["examples"]] == [0, 1, 2]
    # What is ingested is shown as well, before it is read.
    assert "LLaVA records" in _run("ingest", tmp_path / "audit", source).stdout


def test_ingest_again_reads_nothing_twice(tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "data", num_samples=3)
    first = json.loads(_run("ingest", tmp_path / "audit", source, "--json").stdout)
    second = json.loads(_run("ingest", tmp_path / "audit", source, "--json").stdout)
    assert first["num_samples"] == second["num_samples"] == 3
    count = _run("query", tmp_path / "audit", "SELECT count(*) AS n FROM samples", "--format=json")
    assert json.loads(count.stdout) == {"n": 3}


@pytest.mark.parametrize(
    ("arguments", "status", "hint"),
    [
        (["ingest", "audit", "missing.json"], 3, ""),
        (["ingest", "audit", "empty.json"], 3, ""),
        (["ingest", "audit", "empty.json", "--format", "nonsense"], 2, "llava"),
        (["finetune", "audit", "--model", "mini"], 4, "bye-audit ingest"),
        (["finetune", "audit", "--model", "mini", "--epochs", "-1"], 2, "--help"),
        (["score", "audit"], 4, "bye-audit ingest"),
        (["profile", "audit"], 4, "bye-audit ingest"),
        (["filter", "audit", "--out", "out"], 4, "bye-audit ingest"),
        (["report", "audit", "--out", "r.html"], 4, "bye-audit ingest"),
        (["query", "audit", "SELECT 1"], 4, "bye-audit ingest"),
        (["canary", "audit", "--attack", "patch", "--rate", "0.1"], 4, "bye-audit ingest"),
        (["canary", "audit", "--attack", "patch", "--rate", "0"], 2, "--help"),
        (["run", "audit", "missing.json", "--model", "mini", "--out", "out"], 3, ""),
    ],
)
def test_what_cannot_work_ends_in_a_sentence_and_a_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text("[]")
    result = _run(*arguments)
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "\nHint: " in result.stderr
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("stage", "hint"),
    [
        (["score"], "bye-audit finetune"),
        (["profile"], "bye-audit score"),
        (["filter", "--out", "out"], "bye-audit score"),
        (["report", "--out", "report.html"], "bye-audit filter"),
        (["canary", "--attack", "patch", "--rate", "0.1"], "--model MODEL"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_stage_before_its_turn_names_the_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: list[str], hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _run("ingest", "audit", write_llava_source(Path("data"), num_samples=2))
    result = _run(stage[0], "audit", *stage[1:])
    assert result.exit_code == 4
    assert hint in result.stderr


def test_profile_marks_the_sensitive_layers(scored_audit: Path) -> None:
    result = _run("profile", scored_audit)
    assert "Sensitive layers: 3, 4." in result.stdout
    layers = json.loads(_run("profile", scored_audit, "--json").stdout)["layers"]
    assert [layer["layer"] for layer in layers if layer["is_sensitive"]] == [3, 4]


def test_filter_tells_the_decision_first(scored_audit: Path, tmp_path: Path) -> None:
    result = _run("filter", scored_audit, "--out", tmp_path / "out", *BYE)
    assert result.exit_code == 0
    assert result.stdout.startswith("Poison suspected. ")
    assert "72 kept, 8 removed, 0 not scored" in result.stdout
    assert (tmp_path / "out" / "provenance.json").is_file()


def test_filter_asks_for_confirm_or_another_detector(scored_audit: Path, tmp_path: Path) -> None:
    result = _run("filter", scored_audit, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert "Run `bye-audit confirm AUDIT` first" in result.stderr
    assert "--detector plausibility" in result.stderr
    assert not (tmp_path / "out").exists()


def test_filter_gives_programs_one_object(scored_audit: Path, tmp_path: Path) -> None:
    result = _run("filter", scored_audit, "--out", tmp_path / "out", *BYE, "--json")
    found = json.loads(result.stdout)
    assert found["decision"] == "poison_suspected"
    assert found["num_kept"] + found["num_removed"] + found["num_not_scored"] == 80


def test_ablations_of_the_paper_are_options_of_filter(scored_audit: Path, tmp_path: Path) -> None:
    variants = ("--layers all", "--clustering kmeans", "--layer-rule reference-code", "--no-guards")
    for variant in variants:
        result = _run("filter", scored_audit, "--out", tmp_path / "out", *BYE, *variant.split())
        assert "8 removed" in result.stdout, variant
    nobody = ("--clustering", "threshold", "--entropy-threshold", "1%", "--layers", "all")
    result = _run("filter", scored_audit, "--out", tmp_path / "out", *BYE, *nobody, "--no-guards")
    assert "0 removed" in result.stdout


@pytest.mark.parametrize("threshold", ["much", "-1", "120%", "nan"])
def test_an_entropy_threshold_that_is_none_is_a_usage_error(
    scored_audit: Path, tmp_path: Path, threshold: str
) -> None:
    result = _run(
        "filter", scored_audit, "--out", tmp_path / "out", "--entropy-threshold", threshold
    )
    assert result.exit_code == 2
    assert "--entropy-threshold must be above 0" in result.stderr


@pytest.mark.parametrize(
    ("poison_rate", "status"), [(0.1, 10), (0.0, 0)], ids=["poisoned", "clean"]
)
def test_a_gate_can_ask_for_its_own_status(tmp_path: Path, poison_rate: float, status: int) -> None:
    make_scored_audit(tmp_path / "audit", num_samples=200, poison_rate=poison_rate)
    result = _run(
        "filter", tmp_path / "audit", "--out", tmp_path / "out", *BYE, "--fail-on-suspicious"
    )
    assert result.exit_code == status
    # The finding is no error: the split is there all the same.
    assert (tmp_path / "out" / "provenance.json").is_file()


def test_an_unknown_detector_names_those_there_are(scored_audit: Path, tmp_path: Path) -> None:
    result = _run("filter", scored_audit, "--out", tmp_path / "out", "--detector", "magic")
    assert result.exit_code == 2
    assert "bye" in result.stderr
    assert "plausibility" in result.stderr


def test_report_without_overlays_needs_no_model(scored_audit: Path, tmp_path: Path) -> None:
    _run("filter", scored_audit, "--out", tmp_path / "out", *BYE)
    result = _run("report", scored_audit, "--out", tmp_path / "r.html", "--no-overlays")
    assert result.exit_code == 0
    assert "Poison suspected" in (tmp_path / "r.html").read_text("utf-8")


EVIL = "SELECT 'a' || chr(27) || '[2Jb' AS text, 1.5 AS x, NULL AS nothing"


def test_query_answers_in_a_table_that_cannot_steer_the_terminal(scored_audit: Path) -> None:
    result = _run("query", scored_audit, EVIL)
    assert "a\\x1b[2Jb" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stdout.endswith("(1 row)\n")


def test_query_answers_in_csv(scored_audit: Path) -> None:
    rows = list(
        csv.DictReader(io.StringIO(_run("query", scored_audit, EVIL, "--format=csv").stdout))
    )
    assert rows == [{"text": "a\\x1b[2Jb", "x": "1.5", "nothing": ""}]


def test_query_answers_in_json_lines(scored_audit: Path) -> None:
    result = _run("query", scored_audit, EVIL, "--format=json")
    assert json.loads(result.stdout) == {"text": "a\x1b[2Jb", "x": 1.5, "nothing": None}
    assert "\x1b" not in result.stdout


def test_query_answers_in_parquet(scored_audit: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.parquet"
    sql = "SELECT sample_id, entropy_03 FROM samples"
    _run("query", scored_audit, sql, "--format=parquet", "--out", out, "--limit", "7")
    assert pq.read_table(out).num_rows == 7


def test_query_cannot_write_where_it_may_not(scored_audit: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = _run("query", scored_audit, "SELECT 1", "--out", tmp_path / "file" / "a.txt")
    assert result.exit_code == 4
    assert "Hint: " in result.stderr


@pytest.mark.parametrize("sql", ["SELEC 1", "DROP TABLE samples", "SELECT * FROM nowhere"])
def test_a_wrong_query_is_a_usage_error(scored_audit: Path, sql: str) -> None:
    result = _run("query", scored_audit, sql)
    assert result.exit_code == 2
    assert "Hint: " in result.stderr
