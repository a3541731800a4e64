"""The audit directory: what it refuses, what it keeps, what an update touches."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from bye_audit import schema
from bye_audit.errors import SchemaMismatchError, StageNotRunError, StorageError, TableError
from bye_audit.store.tables import AuditTables, new_run_id, sql_text


def sample_rows(num_samples: int, source: str = "a.json") -> pa.Table:
    rows = [
        {
            "sample_id": f"{source}:{row}",
            "source": source,
            "source_row": row,
            "source_id": None,
            "split": "train",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}],
            "images": [],
            "raw": b"{}",
        }
        for row in range(num_samples)
    ]
    return pa.Table.from_pylist(rows, schema=schema.samples_schema())


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    tables = AuditTables.create(tmp_path / "audit")
    tables.append_samples(sample_rows(10))
    return tables


def test_lancedb_opens_what_create_makes(tables: AuditTables) -> None:
    made = set(schema.TABLES) - set(schema.OPTIONAL_TABLES)
    assert set(lancedb.connect(tables.uri).list_tables().tables) == made


def test_create_twice_keeps_what_is_there(tables: AuditTables) -> None:
    assert AuditTables.create(tables.uri).num_samples() == 10


def test_open_without_tables_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="not an audit directory") as caught:
        AuditTables.open(tmp_path)
    assert "bye-audit ingest" in caught.value.hint


def test_create_refuses_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TableError, match="no audit tables") as caught:
        AuditTables.create(tmp_path)
    assert caught.value.hint


def test_create_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="is a file") as caught:
        AuditTables.create(tmp_path / "file")
    assert caught.value.hint


def test_newer_tables_are_refused(tables: AuditTables) -> None:
    dataset = tables.dataset(schema.SAMPLES)
    dataset.update_schema_metadata({schema.SCHEMA_VERSION_KEY: "99"})
    with pytest.raises(SchemaMismatchError, match="version 99") as caught:
        AuditTables.open(tables.uri)
    assert caught.value.hint


def test_an_unwritable_place_is_a_sentence() -> None:
    with pytest.raises(StorageError) as caught:
        AuditTables.create("/proc/no-such-place/audit")
    assert caught.value.hint
    assert ".rs:" not in str(caught.value)


def test_samples_come_back_in_the_order_of_ingest_after_updates(tables: AuditTables) -> None:
    before = tables.read_samples(["sample_id"])["sample_id"].to_pylist()
    tables.add_sample_columns(schema.score_fields(2, {"model": "mini"}))
    ids = ["a.json:7", "a.json:2"]
    tables.update_samples(
        pa.table({"sample_id": ids, "entropy_00": pa.array([7.0, 2.0], pa.float32())})
    )
    found = tables.read_samples(["sample_id", "entropy_00", "entropy_01"])
    assert found["sample_id"].to_pylist() == before
    assert found["entropy_00"].to_pylist() == [None, None, 2.0, *[None] * 4, 7.0, None, None]
    assert found["entropy_01"].null_count == 10
    assert tables.num_samples("entropy_00 IS NOT NULL") == 2
    assert tables.column_metadata("entropy_01") == {"model": "mini", "layer": "1"}


def test_an_update_leaves_texts_in_their_files(tables: AuditTables) -> None:
    def data_files() -> set[str]:
        return {
            file.path
            for fragment in tables.dataset(schema.SAMPLES).get_fragments()
            for file in fragment.data_files()
        }

    before = data_files()
    tables.add_sample_columns(schema.verdict_fields())
    tables.update_samples(pa.table({"sample_id": ["a.json:1"], "verdict": ["keep"]}))
    assert before <= data_files()


def test_an_update_of_an_unknown_sample_is_no_silent_success(tables: AuditTables) -> None:
    tables.add_sample_columns(schema.verdict_fields())
    with pytest.raises(TableError, match="0 of 1") as caught:
        tables.update_samples(pa.table({"sample_id": ["z:1"], "verdict": ["keep"]}))
    assert caught.value.hint


def test_adding_columns_twice_keeps_their_values(tables: AuditTables) -> None:
    tables.add_sample_columns(schema.verdict_fields())
    tables.update_samples(pa.table({"sample_id": ["a.json:1"], "verdict": ["keep"]}))
    tables.add_sample_columns(schema.verdict_fields())
    assert tables.num_samples("verdict = 'keep'") == 1
    with pytest.raises(SchemaMismatchError) as caught:
        tables.add_sample_columns([pa.field("verdict", pa.int32())])
    assert caught.value.hint


def test_dropped_columns_are_gone_and_unknown_ones_no_fault(tables: AuditTables) -> None:
    tables.add_sample_columns(schema.verdict_fields())
    tables.drop_sample_columns(["verdict", "entropy_77"])
    assert "verdict" not in tables.sample_columns()
    assert "reason" in tables.sample_columns()


@pytest.mark.parametrize(
    ("column", "stage"), [("entropy_00", "score"), ("verdict", "filter"), ("score_status", "score")]
)
def test_a_missing_column_names_its_stage(tables: AuditTables, column: str, stage: str) -> None:
    for attempt in (
        lambda: tables.read_samples([column]),
        lambda: list(tables.scan_samples([column])),
        lambda: tables.num_samples(f"{column} IS NULL"),
        lambda: tables.column_metadata(column),
    ):
        with pytest.raises(StageNotRunError, match=column) as caught:
            attempt()
        assert f"bye-audit {stage}" in caught.value.hint


def test_scanning_in_batches_gives_every_row_once(tables: AuditTables) -> None:
    batches = list(tables.scan_samples(["sample_id"], "source_row >= 3", batch_size=2))
    ids = [sample_id for batch in batches for sample_id in batch["sample_id"].to_pylist()]
    assert ids == [f"a.json:{row}" for row in range(3, 10)]


def test_quotes_in_names_stay_text(tables: AuditTables) -> None:
    name = "it's; DROP.json"
    tables.append_samples(sample_rows(2, name))
    assert tables.num_samples(f"source = {sql_text(name)}") == 2


def test_runs_are_kept_in_order(tables: AuditTables) -> None:
    tables.record_run("score", {"n": 1})
    last = tables.record_run("score", {"n": 2, "text": "é"}, run_id="score-x")
    tables.record_run("filter", {})
    assert tables.latest_run("score") == last
    assert [run.record["n"] for run in tables.runs("score")] == [1, 2]
    assert tables.latest_run("report") is None
    assert len(tables.runs()) == 3
    with pytest.raises(ValueError, match="JSON"):
        tables.record_run("score", {"loss": float("nan")})


def test_run_ids_do_not_repeat() -> None:
    assert len({new_run_id("score") for _ in range(50)}) == 50


def test_content_digest_ignores_scores_and_files_but_not_texts(
    tables: AuditTables, tmp_path: Path
) -> None:
    before = tables.content_digest()
    tables.add_sample_columns(schema.verdict_fields())
    tables.update_samples(pa.table({"sample_id": ["a.json:1"], "verdict": ["keep"]}))
    assert tables.content_digest() == before
    pieces = AuditTables.create(tmp_path / "pieces")
    rows = sample_rows(10)
    pieces.append_samples(rows.slice(0, 4))
    pieces.append_samples(rows.slice(4))
    assert pieces.content_digest() == before
    pieces.compact()
    assert pieces.content_digest() == before
    shuffled = AuditTables.create(tmp_path / "shuffled")
    shuffled.append_samples(rows.take(pa.array([3, 0, 9, 1, 2, 8, 7, 6, 5, 4])))
    assert shuffled.content_digest() == before
    other = AuditTables.create(tmp_path / "other")
    other.append_samples(rows.slice(0, 9))
    assert other.content_digest() != before


def test_missing_images_are_a_damaged_audit(tables: AuditTables) -> None:
    assert tables.load_images([]) == {}
    with pytest.raises(TableError, match="lacks 1 images") as caught:
        tables.load_images(["00ff"])
    assert caught.value.hint


def test_directories_lie_inside_the_audit(tables: AuditTables) -> None:
    folder = tables.directory("adapters")
    assert folder == Path(tables.uri) / "adapters"
    assert folder.is_dir()
