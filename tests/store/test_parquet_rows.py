"""Hugging Face Parquet: rows of any types survive the way through the audit."""

from __future__ import annotations

import datetime
import hashlib
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.sources import IMAGE_TYPE, draw_png

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers.base import StoredRecord
from bye_audit.store.sources.containers.parquet import ParquetRows
from bye_audit.store.sources.dialects.turns import read_turns

FORMAT = ParquetRows()


def test_rows_of_all_types_come_back_equal(tmp_path: Path) -> None:
    content, _ = draw_png(1)
    digest = hashlib.sha256(content).hexdigest()
    table = pa.table(
        {
            "image": pa.array([{"bytes": content, "path": "a.png"}, None], IMAGE_TYPE),
            "question": ["what?", "which \U0001f600?"],
            "score": pa.array([0.1, float("inf")], pa.float32()),
            "odd": [float("nan"), None],
            "blob": [b"\x00\xff", b""],
            "when": pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("ns")),
            "price": pa.array([Decimal("1.10"), None], pa.decimal128(5, 2)),
            "label": pa.array(["x", "y"]).dictionary_encode(),
            "nested": [[{"a": 1}], []],
        }
    )
    path, back = tmp_path / "x.parquet", tmp_path / "y.parquet"
    pq.write_table(table, path)
    stored = []
    for record in FORMAT.records(path, 0):
        raw = FORMAT.stored_raw(record, [], [digest])
        json.loads(raw)
        stored.append(StoredRecord(raw, [digest]))
    assert content not in stored[0].raw
    FORMAT.write(back, stored, FORMAT.describe(path), lambda _: {digest: content})
    found, expected = pq.read_table(back), pq.read_table(path)
    assert found.schema.equals(expected.schema, check_metadata=True)
    # NaN equals nothing, so that column is compared as text.
    for name in expected.column_names:
        assert str(found[name].to_pylist()) == str(expected[name].to_pylist()), name


def test_reading_from_a_row_on_skips_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": list(range(10))}), path, row_group_size=3)
    assert [record.row for record in FORMAT.records(path, 7)] == [7, 8, 9]


def test_a_text_that_is_not_utf8_costs_only_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"question": texts}), path)
    faults = [record.fault is not None for record in FORMAT.records(path, 0)]
    assert faults == [False, True, False]


def test_question_and_answer_columns_are_a_conversation(tmp_path: Path) -> None:
    content, _ = draw_png(1)
    row = {"image": {"bytes": content, "path": None}, "question": "what?", "answer": "a star"}
    conversation = read_turns(row)
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"]
    assert conversation.images[0].content == content


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(SourceFormatError, match=r"x\.parquet") as caught:
        FORMAT.describe(path)
    assert caught.value.hint
