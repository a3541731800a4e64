"""Folders that `datasets` saved: read shard by shard, and what is kept is such a folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from support.sources import draw_png

from bye_audit.errors import SourceFormatError
from bye_audit.ingest import ingest_samples
from bye_audit.store.export import export_split
from bye_audit.store.sources.containers import containers, recognise_container
from bye_audit.store.tables import AuditTables

FORMAT = containers()["arrow"]


def make_rows(num_rows: int) -> list[dict[str, Any]]:
    found = []
    for number in range(num_rows):
        content, answer = draw_png(number)
        ask = [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]
        tell = [{"type": "text", "text": answer}]
        found.append(
            {
                "images": [{"bytes": content, "path": None}],
                "messages": [
                    {"role": "user", "content": ask},
                    {"role": "assistant", "content": tell},
                ],
            }
        )
    return found


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dataset = datasets.Dataset.from_list(make_rows(6))
    dataset = dataset.cast_column("images", datasets.List(datasets.Image()))
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved"


def test_a_saved_dataset_is_read_and_given_back(saved: Path, tmp_path: Path) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    summary = ingest_samples(tables, [saved])
    assert (summary.num_samples, summary.num_images) == (6, 6)
    assert [source.container for source in summary.by_source] == ["arrow", "arrow"]
    assert {source.format for source in summary.by_source} == {"trl"}
    export_split(tables, tmp_path / "out", "source_row <> 1", "source_row = 1")
    back = datasets.load_from_disk(tmp_path / "out" / "cleaned")
    assert back.features["images"] == datasets.List(datasets.Image())
    raw = back.cast_column("images", datasets.List(datasets.Image(decode=False)))
    # The second of each shard of three is removed.
    wanted = [row for number, row in enumerate(make_rows(6)) if number % 3 != 1]
    assert [row["images"][0]["bytes"] for row in raw] == [
        row["images"][0]["bytes"] for row in wanted
    ]
    assert [row["messages"] for row in raw] == [row["messages"] for row in wanted]


def test_both_kinds_of_arrow_files_are_read_from_any_row_on(tmp_path: Path) -> None:
    table = pa.table({"question": ["a?", "b?", "c?"], "answer": ["a", "b", "c"]})
    stream, file = tmp_path / "s.arrow", tmp_path / "f.arrow"
    with pa.OSFile(str(stream), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    for path in (stream, file):
        assert recognise_container(path).name == "arrow"
        assert FORMAT.describe(path)["total"] == 3
        assert [(r.row, r.value) for r in FORMAT.records(path, 2)] == [
            (2, {"question": "c?", "answer": "c"})
        ]


def test_a_file_that_breaks_off_is_refused(saved: Path) -> None:
    path = sorted(saved.glob("*.arrow"))[0]
    content = path.read_bytes()
    for size in (4, 100, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(SourceFormatError, match="not readable Arrow"):
            FORMAT.describe(path)
