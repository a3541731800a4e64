"""Ingest: nothing lost, nothing twice, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.sources import (
    llava_record,
    write_chat_source,
    write_llava_source,
    write_parquet_source,
)

from bye_audit import schema
from bye_audit.errors import (
    ByeAuditError,
    ConfigError,
    EmptySourceError,
    InputError,
    InterruptedStageError,
    SourceFormatError,
    TableError,
)
from bye_audit.ingest import IngestSummary, ingest_samples, job
from bye_audit.progress import Task
from bye_audit.store.source_list import list_sources
from bye_audit.store.tables import AuditTables

BAD = [
    llava_record(7, "x", "images/none.png"),
    llava_record(8, "x", "../../secret.png"),
    5,
    {"id": 1, "conversations": []},
]


class Watcher:
    """A progress that counts, and can play the user who stops the stage."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self.stop_after = stop_after

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        self.totals[description] = total
        self.done[description] = 0
        watcher, calls = self, 0

        class Counter:
            def advance(self, amount: int = 1, note: str = "") -> None:
                nonlocal calls
                calls += 1
                watcher.done[description] += amount
                if description.startswith("ingest") and calls == watcher.stop_after:
                    raise KeyboardInterrupt

        yield Counter()


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    return AuditTables.create(tmp_path / "audit")


def all_rows(
    tables: AuditTables,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    quarantine = tables.dataset("quarantine").to_table().to_pylist()
    quarantine.sort(key=lambda row: (row["source"], row["source_row"]))
    columns = ["sample_id", "source_row", "source_id", "split", "messages", "images", "raw"]
    digests = tables.dataset("images").to_table(columns=["sha256"])["sha256"].to_pylist()
    return tables.read_samples(columns).to_pylist(), quarantine, sorted(digests)


def test_every_record_is_a_sample_or_quarantined(tables: AuditTables, tmp_path: Path) -> None:
    text_only = llava_record(99, "text", None)
    source = write_llava_source(tmp_path / "a", 5, extra=[*BAD, text_only])
    summary = ingest_samples(tables, [source])
    assert (summary.rows_read, summary.num_samples, summary.num_quarantined) == (10, 6, 4)
    assert summary.by_code == {
        "bad_conversation": 1,
        "image_missing": 1,
        "not_an_object": 1,
        "path_escapes_root": 1,
    }
    samples, quarantine, digests = all_rows(tables)
    assert len(samples) == 6
    assert len(quarantine) == 4
    assert len(digests) == summary.num_images == 5
    assert tables.load_images([digests[0]])[digests[0]].startswith(b"\x89PNG")


def test_all_formats_meet_in_one_table(tables: AuditTables, tmp_path: Path) -> None:
    sources = [
        write_llava_source(tmp_path / "a", 3),
        write_chat_source(tmp_path / "b", 3),
        write_parquet_source(tmp_path / "c", 3),
    ]
    watcher = Watcher()
    summary = ingest_samples(tables, sources, progress=watcher)
    assert [s.format for s in summary.by_source] == ["llava", "openai", "trl"]
    assert [s.container for s in summary.by_source] == ["json", "jsonl", "parquet"]
    assert (summary.num_samples, summary.num_images) == (9, 3)
    rows = tables.read_samples(["sample_id", "images", "messages"]).to_pylist()
    assert rows[0]["images"] == rows[3]["images"] == rows[6]["images"]
    assert len({row["sample_id"] for row in rows}) == 9
    assert {rows[i]["messages"][-1]["content"] for i in (0, 3, 6)} == {
        rows[0]["messages"][-1]["content"]
    }
    assert watcher.done["ingest train.parquet"] == watcher.totals["ingest train.parquet"] == 3


def test_again_is_a_no_op(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 3, extra=BAD)
    first = ingest_samples(tables, [source])
    version, runs = tables.version(), tables.runs()
    second = ingest_samples(tables, [source, source])
    assert (tables.version(), tables.runs()) == (version, runs)
    assert not second.by_source[0].is_new
    assert (second.rows_read, second.by_code) == (first.rows_read, first.by_code)


def test_the_run_tells_what_went_in(tables: AuditTables, tmp_path: Path) -> None:
    ingest_samples(tables, [write_llava_source(tmp_path / "a", 2, extra=BAD)])
    ingest_samples(tables, [write_chat_source(tmp_path / "b", 2)])
    run = tables.latest_run("ingest")
    assert run is not None
    assert [s["source"] for s in run.record["sources"]] == ["train.json", "train.jsonl"]
    assert run.record["rows_read"] == 8
    assert run.record["quarantine_by_code"]["image_missing"] == 1
    assert str(tmp_path) not in json.dumps(run.record)
    assert str(tmp_path) not in json.dumps(list_sources(tables))


@pytest.mark.parametrize("stop_after", [1, 4, 6, 9])
@pytest.mark.parametrize("commit_rows", [2, 100])
def test_stopped_and_continued_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, commit_rows: int
) -> None:
    monkeypatch.setattr(job, "_COMMIT_ROWS", commit_rows)
    source = write_llava_source(tmp_path / "a", 5, extra=BAD)
    tables = AuditTables.create(tmp_path / "stopped")
    with pytest.raises(InterruptedStageError) as caught:
        ingest_samples(tables, [source], progress=Watcher(stop_after))
    assert "again" in caught.value.hint
    assert tables.num_samples() + tables.num_quarantined() == stop_after
    assert tables.latest_run("ingest") is None
    summary = ingest_samples(tables, [source])
    assert (summary.rows_read, summary.num_samples) == (9, 5)
    whole = AuditTables.create(tmp_path / "whole")
    ingest_samples(whole, [source])
    assert all_rows(tables) == all_rows(whole)
    assert tables.content_digest() == whole.content_digest()


def run_in_process(tmp_path: Path, source: Path, before: str = "") -> subprocess.Popen[str]:
    code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
{before}
from bye_audit import schema
from bye_audit.ingest import ingest_samples, job
from bye_audit.errors import ByeAuditError
from bye_audit.store.tables import AuditTables
job._COMMIT_ROWS = 3
original = job.SourceJob._take
def slow(*args):
    time.sleep(0.01)
    original(*args)
job.SourceJob._take = slow
tables = AuditTables.create({str(tmp_path / "audit")!r})
print("ready", flush=True)
try:
    ingest_samples(tables, [{str(source)!r}])
except ByeAuditError as error:
    print(type(error).__name__, error, error.hint)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_ingest_goes_on(tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 60, extra=BAD)
    for seconds in (0.1, 0.25):
        process = run_in_process(tmp_path, source)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    tables = AuditTables.open(tmp_path / "audit")
    assert 0 < tables.num_samples() < 60
    ingest_samples(tables, [source])
    whole = AuditTables.create(tmp_path / "whole")
    ingest_samples(whole, [source])
    assert tables.content_digest() == whole.content_digest()
    assert set(all_rows(tables)[2]) == set(all_rows(whole)[2])
    assert tables.quarantine_counts() == whole.quarantine_counts()


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 40)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    output, _ = run_in_process(tmp_path, source, limit).communicate(timeout=60)
    assert "StorageError" in output
    assert "disk is full" in output
    assert "again" in output
    tables = AuditTables.open(tmp_path / "audit")
    assert ingest_samples(tables, [source]).num_samples == 40


def test_changed_content_is_not_mixed_in(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 3)
    ingest_samples(tables, [source])
    write_llava_source(tmp_path / "a", 4)
    with pytest.raises(InputError, match="other content") as caught:
        ingest_samples(tables, [source])
    assert "new audit directory" in caught.value.hint
    assert tables.num_samples() == 3


def test_a_half_read_source_that_changed_is_read_anew(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 4)
    with pytest.raises(InterruptedStageError):
        ingest_samples(tables, [source], progress=Watcher(2))
    write_llava_source(tmp_path / "a", 3, seed=1)
    assert ingest_samples(tables, [source]).num_samples == 3
    assert tables.num_samples() == 3


def test_files_of_the_same_name_do_not_collide(tables: AuditTables, tmp_path: Path) -> None:
    first = write_llava_source(tmp_path / "a", 2)
    second = write_llava_source(tmp_path / "b", 3, seed=1)
    summary = ingest_samples(tables, [first, second])
    assert [s.source for s in summary.by_source] == ["train.json", "train.json#2"]
    assert tables.num_samples() == 5
    assert not any(s.is_new for s in ingest_samples(tables, [first, second]).by_source)


def test_a_relative_path_is_kept_as_typed(
    tables: AuditTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_llava_source(tmp_path / "data" / "a", 2)
    monkeypatch.chdir(tmp_path)
    assert (
        ingest_samples(tables, ["./data/a/train.json"]).by_source[0].source == "data/a/train.json"
    )
    assert not ingest_samples(tables, [source]).by_source[0].is_new
    assert tables.read_samples(["sample_id"])["sample_id"][1].as_py() == "data/a/train.json:1"


def test_images_may_lie_elsewhere(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 2)
    moved = tmp_path / "records.json"
    source.rename(moved)
    with pytest.raises(EmptySourceError, match="2 image_missing") as caught:
        ingest_samples(tables, [moved])
    assert "--image-root" in caught.value.hint
    assert tables.num_quarantined() == 0
    assert ingest_samples(tables, [moved], image_root=tmp_path / "a").num_samples == 2


def test_a_folder_stands_for_its_files(tables: AuditTables, tmp_path: Path) -> None:
    write_parquet_source(tmp_path / "set" / "data", 2)
    assert ingest_samples(tables, [tmp_path / "set"]).num_samples == 2


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("x.json", "", EmptySourceError),
        ("x.json", "[]", EmptySourceError),
        ("x.jsonl", "\n\n", EmptySourceError),
        ("x.json", "[1, 2]", EmptySourceError),
        ("x.json", '{"data":\n []}', SourceFormatError),
        ("x.json", '[{"id": 1}, {"id"', SourceFormatError),
        ("x.json", '[{"id": 1}] ]', SourceFormatError),
        ("x.csv", "a,b\n1,2\n", EmptySourceError),
        ("x.txt", "a,b\n1,2\n", SourceFormatError),
        ("x.parquet", "PAR1", SourceFormatError),
    ],
)
def test_a_useless_source_is_named_and_leaves_nothing(
    tables: AuditTables, tmp_path: Path, name: str, text: str, error: type[ByeAuditError]
) -> None:
    with pytest.raises(error, match=name) as caught:
        ingest_samples(tables, [write(tmp_path / name, text)])
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert tables.num_samples() == tables.num_quarantined() == 0
    assert list_sources(tables) == {}


def test_an_empty_parquet_is_named(tables: AuditTables, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(EmptySourceError) as caught:
        ingest_samples(tables, [tmp_path / "x.parquet"])
    assert caught.value.hint


def test_wrong_options_are_named(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 1)
    wrong: list[tuple[type[ByeAuditError], dict[str, object]]] = [
        (ConfigError, {"format": "docx"}),
        (ConfigError, {"split": "../train"}),
        (InputError, {"image_root": tmp_path / "nowhere"}),
        (SourceFormatError, {"format": "parquet"}),
    ]
    for error, options in wrong:
        with pytest.raises(error) as caught:
            ingest_samples(tables, [source], **options)  # type: ignore[arg-type]
        assert caught.value.hint
    with pytest.raises(InputError) as caught:
        ingest_samples(tables, [tmp_path / "nowhere.json"])
    assert caught.value.hint
    with pytest.raises(EmptySourceError) as caught:
        ingest_samples(tables, [])
    assert caught.value.hint
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SourceFormatError) as caught:
        ingest_samples(tables, [tmp_path / "nothing"])
    assert caught.value.hint
    ingest_samples(tables, [source])
    with pytest.raises(InputError, match="split train") as caught:
        ingest_samples(tables, [source], split="test")
    assert caught.value.hint


def test_an_unreadable_source_is_named(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 1)
    source.chmod(0)
    if os.access(source, os.R_OK):
        # The superuser reads everything: a folder in the file's place cannot be read by anybody.
        source.unlink()
        source.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError) as caught:
        ingest_samples(tables, [source])
    assert caught.value.hint


def test_one_bad_image_among_good_ones_costs_one_record(
    tables: AuditTables, tmp_path: Path
) -> None:
    source = write_llava_source(tmp_path / "a", 3)
    records = json.loads(source.read_text())
    records[1]["image"] = [records[0]["image"], "images/cut.png"]
    records[1]["conversations"][0]["value"] = "<image><image>?"
    (tmp_path / "a/images/cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source.write_text(json.dumps(records))
    summary = ingest_samples(tables, [source])
    assert isinstance(summary, IngestSummary)
    assert summary.by_code == {"image_undecodable": 1}
    for row in tables.read_samples(["images"]).to_pylist():
        assert tables.load_images(row["images"])


def test_two_ingests_at_once_are_refused(tables: AuditTables, tmp_path: Path) -> None:
    source = write_llava_source(tmp_path / "a", 2)
    with (
        tables.sole_writer("ingest"),
        pytest.raises(TableError, match="Another ingest") as caught,
    ):
        ingest_samples(AuditTables.open(tables.uri), [source])
    assert caught.value.hint
    assert ingest_samples(tables, [source]).num_samples == 2


def test_sources_may_come_after_scoring(tables: AuditTables, tmp_path: Path) -> None:
    ingest_samples(tables, [write_llava_source(tmp_path / "a", 2)])
    tables.add_sample_columns(schema.score_fields(1, {}))
    tables.update_samples(pa.table({"sample_id": ["train.json:0"], "score_status": ["ok"]}))
    ingest_samples(tables, [write_chat_source(tmp_path / "b", 2)])
    found = tables.read_samples(["score_status"])["score_status"].to_pylist()
    assert found == ["ok", None, None, None]
