"""The exported split: survivors unchanged, in order, readable by others, all or nothing."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sources import (
    llava_record,
    write_chat_source,
    write_llava_source,
    write_parquet_source,
)

from bye_audit import schema
from bye_audit.errors import ConfigError, StorageError
from bye_audit.ingest import ingest_samples
from bye_audit.store.export import export_split
from bye_audit.store.tables import AuditTables

TEXT_ONLY = llava_record(99, "text", None)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [
        write_llava_source(tmp_path / "a", 4, indent=2, extra=[TEXT_ONLY]),
        write_chat_source(tmp_path / "b", 3, seed=1),
        write_parquet_source(tmp_path / "c", 3, seed=2),
    ]


@pytest.fixture
def tables(tmp_path: Path, sources: list[Path]) -> AuditTables:
    tables = AuditTables.create(tmp_path / "audit")
    ingest_samples(tables, sources)
    return tables


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_kept_is_the_source_again(
    tables: AuditTables, sources: list[Path], tmp_path: Path
) -> None:
    export_split(tables, tmp_path / "out", "true", "false")
    cleaned = tmp_path / "out" / "cleaned"
    assert (cleaned / "01-train" / "train.json").read_bytes() == sources[0].read_bytes()
    assert (cleaned / "02-train" / "train.jsonl").read_bytes() == sources[1].read_bytes()
    back = pq.read_table(cleaned / "03-train" / "train.parquet")
    assert back.equals(pq.read_table(sources[2]))
    for image in sources[0].parent.glob("images/*.png"):
        copy = cleaned / "01-train" / "images" / image.name
        assert copy.read_bytes() == image.read_bytes()


def test_survivors_keep_their_bytes_and_their_order(
    tables: AuditTables, sources: list[Path], tmp_path: Path
) -> None:
    result = export_split(tables, tmp_path / "out", "source_row != 1", "source_row = 1")
    assert (result.num_kept, result.num_removed, result.num_image_files) == (8, 3, 3)
    cleaned = tmp_path / "out" / "cleaned"
    records = json.loads(sources[0].read_text())
    del records[1]
    assert json.loads((cleaned / "01-train" / "train.json").read_text()) == records
    lines = sources[1].read_text().splitlines()
    assert (cleaned / "02-train" / "train.jsonl").read_text().splitlines() == lines[::2]


def test_files_are_described_as_they_are(tables: AuditTables, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export_split(tables, out, "source_row != 1", "source_row = 1")
    assert len(result.files) == 8
    for file in result.files:
        content = (out / file.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert len(content) == file.num_bytes
    assert [file.num_rows for file in result.files] == [4, 1, 2, 1, 2, 1, 8, 3]


def test_one_source_lies_at_the_top(tmp_path: Path) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    ingest_samples(tables, [write_llava_source(tmp_path / "a", 3)])
    export_split(tables, tmp_path / "out", "true", "false")
    assert (tmp_path / "out" / "cleaned" / "train.json").is_file()


def test_ingest_reads_what_export_wrote(tables: AuditTables, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_split(tables, out, "source_row != 1", "source_row = 1")
    again = AuditTables.create(tmp_path / "again")
    summary = ingest_samples(
        again, [out / "cleaned" / "01-train", *sorted(out.glob("cleaned/0[23]*")), out / "parquet"]
    )
    assert (summary.num_samples, summary.num_quarantined) == (16, 0)
    columns, where = ["messages", "images"], "source_row != 1"
    found = again.read_samples(columns, limit=8).to_pylist()
    assert found == tables.read_samples(columns, where).to_pylist()
    assert again.read_samples(columns).slice(8).to_pylist() == found


@pytest.mark.filterwarnings("ignore")
def test_datasets_opens_the_parquet_with_images(tables: AuditTables, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_split(tables, out, "source_row != 1", "source_row = 1")
    datasets.disable_progress_bars()
    opened = datasets.load_dataset(
        "parquet", data_dir=str(out / "parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert opened.features["images"] == datasets.List(datasets.Image())
    assert len(opened) == 8
    assert opened[0]["images"][0].size == (144, 144)
    assert opened[0]["messages"][0]["role"] == "user"
    removed = datasets.load_dataset(
        "parquet", data_files=str(out / "removed.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert removed[0]["images"][0].size == (144, 144)


def test_removed_samples_carry_their_scores(tables: AuditTables, tmp_path: Path) -> None:
    tables.add_sample_columns([*schema.score_fields(2, {}), *schema.verdict_fields()])
    update: dict[str, Any] = {
        "sample_id": ["train.json:1"],
        "verdict": ["remove"],
        "reason": ["low_attention_entropy"],
        "suspicion": pa.array([0.75], pa.float32()),
        "entropy_01": pa.array([0.5], pa.float32()),
        "answer_logp": pa.array([-2.0], pa.float32()),
    }
    tables.update_samples(pa.table(update))
    out = tmp_path / "out"
    export_split(tables, out, "verdict IS NULL", "verdict = 'remove'")
    row = pq.read_table(out / "removed.parquet").to_pylist()[0]
    assert (row["verdict"], row["suspicion"], row["entropy_01"]) == ("remove", 0.75, 0.5)
    assert (row["source_row"], row["source_id"], row["answer_logp"]) == (1, "1", -2.0)
    assert row["images"][0]["bytes"].startswith(b"\x89PNG")


def test_writing_again_gives_the_same_bytes(tables: AuditTables, tmp_path: Path) -> None:
    first = export_split(tables, tmp_path / "out", "source_row != 1", "source_row = 1")
    before = tree(tmp_path / "out")
    assert export_split(tables, tmp_path / "out", "source_row != 1", "source_row = 1") == first
    assert tree(tmp_path / "out") == before
    export_split(tables, tmp_path / "out2", "source_row != 1", "source_row = 1")
    assert tree(tmp_path / "out2") == before


def test_a_new_split_replaces_the_old_one_whole(tables: AuditTables, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_split(tables, out, "true", "false")
    (out / "notes.txt").write_text("mine")
    export_split(tables, out, "false", "true", formats=["source"])
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "parquet").exists()
    assert not list(out.rglob("*.png"))
    assert json.loads((out / "cleaned" / "01-train" / "train.json").read_text()) == []


def test_a_failed_export_leaves_the_last_one(
    tables: AuditTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_split(tables, out, "true", "false")
    before = tree(out)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bye_audit.store.export._Export.write_removed", no_space)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        export_split(tables, out, "false", "true")
    assert caught.value.hint
    assert tree(out) == before
    assert not list(tmp_path.glob(".out*"))


def test_what_a_killed_export_left_is_cleared(tables: AuditTables, tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "cleaned").mkdir(parents=True)
    (tmp_path / ".out.partial" / "cleaned" / "half.json").write_text("[")
    export_split(tables, tmp_path / "out", "true", "false")
    assert not list(tmp_path.glob(".out*"))
    assert not list(tmp_path.rglob("half.json"))


def test_files_of_others_are_not_replaced(tables: AuditTables, tmp_path: Path) -> None:
    (tmp_path / "out" / "cleaned").mkdir(parents=True)
    for out in (tmp_path / "out", Path(tables.uri), tmp_path / "a" / "train.json"):
        with pytest.raises(ConfigError) as caught:
            export_split(tables, out, "true", "false")
        assert "--out" in caught.value.hint


def test_an_unknown_format_is_named(tables: AuditTables, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="csv") as caught:
        export_split(tables, tmp_path / "out", "true", "false", formats=["csv"])
    assert "parquet" in caught.value.hint


def test_splits_get_files_of_their_own(tmp_path: Path) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    ingest_samples(tables, [write_llava_source(tmp_path / "a", 3)])
    ingest_samples(
        tables, [write_llava_source(tmp_path / "a", 2, seed=5, name="val.json")], split="validation"
    )
    result = export_split(tables, tmp_path / "out", "true", "false")
    assert [file.path for file in result.files] == [
        "cleaned/train.json",
        "cleaned/val.json",
        "parquet/train-00000-of-00001.parquet",
        "parquet/validation-00000-of-00001.parquet",
        "removed.parquet",
    ]


def test_large_splits_are_written_in_shards(
    tables: AuditTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bye_audit.store.export._SHARD_BYTES", 1)
    monkeypatch.setattr("bye_audit.store.export._BATCH_ROWS", 3)
    result = export_split(tables, tmp_path / "out", "true", "false", formats=["parquet"])
    names = [Path(file.path).name for file in result.files[:-1]]
    assert names == [f"train-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
    assert len(names) > 1
    assert sum(file.num_rows for file in result.files) == 11


plain_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
plain_records = st.fixed_dictionaries(
    {
        "id": st.integers() | plain_text | st.none(),
        "conversations": st.tuples(plain_text, plain_text).map(
            lambda texts: [
                {"from": "human", "value": texts[0].replace("<image>", "")},
                {"from": "gpt", "value": "." + texts[1].replace("<image>", "")},
            ]
        ),
    },
    optional={"extra": st.floats() | st.lists(plain_text), "\x00": plain_text},
)


@settings(max_examples=8)
@given(
    records=st.lists(plain_records, min_size=2, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    as_lines=st.booleans(),
)
def test_any_records_survive_as_they_were(
    records: list[dict[str, Any]], indent: int | None, *, ascii_only: bool, as_lines: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "x.json"
        if as_lines:
            lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
            source.write_text("\n".join(lines), encoding="utf-8", newline="")
        else:
            text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
            source.write_text(text, encoding="utf-8", newline="")
        tables = AuditTables.create(folder / "audit")
        assert ingest_samples(tables, [source]).num_samples == len(records)
        export_split(tables, folder / "out", "true", "false", formats=["source"])
        assert (folder / "out" / "cleaned" / "x.json").read_bytes() == source.read_bytes()


def list_rows(path: Path) -> list[object]:
    if path.suffix == ".json":
        return list(json.loads(path.read_text()))
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return list(path.read_text().splitlines(keepends=True))


def test_what_is_not_kept_lies_beside_it_in_the_same_format(tmp_path: Path) -> None:
    broken: list[object] = [5, {"id": 1.0, "conversations": []}, llava_record(7, "x", "none.png")]
    sources = [
        write_llava_source(tmp_path / "a", 4, indent=2, extra=broken),
        write_chat_source(tmp_path / "b", 3, seed=1),
        write_parquet_source(tmp_path / "c", 3, seed=2),
    ]
    with sources[1].open("ab") as file:
        file.write(b'{"cut off\n\x00' + b"0" * 64 + b"\x00\n")
    tables = AuditTables.create(tmp_path / "audit")
    summary = ingest_samples(tables, sources)
    assert summary.num_quarantined == 5
    export_split(tables, tmp_path / "out", "source_row != 1", "source_row = 1")
    for number, source in enumerate(sources, 1):
        place = f"{number:02d}-train/{source.name}"
        parts = [
            tmp_path / "out" / folder / place for folder in ("cleaned", "removed", "quarantined")
        ]
        assert [path.is_file() for path in parts] == [True, True, number < 3]
        found = [row for path in parts if path.is_file() for row in list_rows(path)]
        assert sorted(map(repr, found)) == sorted(map(repr, list_rows(source)))
        assert len(list_rows(parts[1])) == 1


def test_a_parquet_row_that_is_no_text_is_kept_as_it_is(tmp_path: Path) -> None:
    good = pq.read_table(write_parquet_source(tmp_path / "c", 3, seed=2))
    names = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    path = tmp_path / "x.parquet"
    pq.write_table(good.append_column("name", names), path)
    tables = AuditTables.create(tmp_path / "audit")
    summary = ingest_samples(tables, [path])
    assert (summary.num_samples, summary.by_code) == (2, {"bad_row": 1})
    export_split(tables, tmp_path / "out", "true", "false")
    (back,) = pq.read_table(tmp_path / "out" / "quarantined" / path.name)["name"].chunks
    assert back.view(pa.binary()).to_pylist() == [b"\xff\xfe"]
