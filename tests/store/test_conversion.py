"""Kept samples written in other formats say and show the same, and open where they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.sources import draw_png, llava_record, write_llava_source

from bye_audit.ingest import ingest_samples
from bye_audit.store import conversion
from bye_audit.store.conversion import CONVERSIONS
from bye_audit.store.export import export_split
from bye_audit.store.tables import AuditTables

SEVERAL = {
    "id": "two",
    "image": ["images/scene_0_0001.png", "images/scene_0_0002.png"],
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Here <image> and there <image>: équal?"},
        {"from": "gpt", "value": "no"},
        {"from": "human", "value": "sure?"},
        {"from": "gpt", "value": "yes"},
    ],
}


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    extra = [llava_record(9, "only words", None), SEVERAL]
    source = write_llava_source(tmp_path / "data", 5, extra=extra)
    tables = AuditTables.create(tmp_path / "audit")
    ingest_samples(tables, [source])
    return tables


def said_and_shown(tables: AuditTables) -> list[tuple[Any, ...]]:
    """Give what was said, line breaks beside images aside, and the images' digests."""
    rows = tables.read_samples(["messages", "images"]).to_pylist()
    return [
        (
            [(turn["role"], turn["content"].replace("\n", "")) for turn in row["messages"]],
            row["images"],
        )
        for row in rows
    ]


@pytest.mark.parametrize("shard_bytes", [1, 1 << 30])
@pytest.mark.parametrize("name", CONVERSIONS)
def test_what_is_written_is_read_as_the_same(
    tables: AuditTables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shard_bytes: int,
) -> None:
    monkeypatch.setattr(conversion, "_SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(conversion, "_GROUP_ROWS", 2)
    result = export_split(tables, tmp_path / "out", "true", "false", formats=[name])
    assert sum(file.num_rows for file in result.files if file.path.startswith(name)) == 7
    again = AuditTables.create(tmp_path / "again")
    summary = ingest_samples(again, [tmp_path / "out" / name])
    assert (summary.num_samples, summary.num_quarantined) == (7, 0)
    assert said_and_shown(again) == said_and_shown(tables)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_two_runs_write_the_same_bytes(tables: AuditTables, tmp_path: Path, name: str) -> None:
    results = [
        export_split(tables, tmp_path / out, "true", "false", formats=[name]) for out in ("a", "b")
    ]
    assert results[0].files == results[1].files


def test_trl_rows_have_real_images_and_parts(tables: AuditTables, tmp_path: Path) -> None:
    export_split(tables, tmp_path / "out", "true", "false", formats=["trl"])
    files = [str(path) for path in (tmp_path / "out" / "trl").glob("*.parquet")]
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    assert rows.features["images"] == datasets.List(datasets.Image())
    assert rows[0]["images"][0].size == (144, 144)
    kinds = [[part["type"] for part in turn["content"]] for turn in rows[6]["messages"]]
    assert kinds == [["text"], ["text", "image", "text", "image", "text"], *[["text"]] * 3]


def test_llava_and_jsonl_name_image_files_that_are_there(
    tables: AuditTables, tmp_path: Path
) -> None:
    export_split(tables, tmp_path / "out", "true", "false", formats=["llava", "jsonl"])
    records = json.loads((tmp_path / "out" / "llava" / "train.json").read_text())
    assert (tmp_path / "out" / "llava" / records[0]["image"]).read_bytes() == draw_png(0)[0]
    assert "image" not in records[5]
    assert len(records[6]["image"]) == 2
    lines = (tmp_path / "out" / "jsonl" / "train.jsonl").read_text().splitlines()
    assert json.loads(lines[5])["images"] == []
    assert (tmp_path / "out" / "jsonl" / json.loads(lines[6])["images"][1]).is_file()
