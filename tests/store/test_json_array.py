"""Cutting a JSON array into records: every byte of each, whatever lies between them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers import json_array
from bye_audit.store.sources.containers.base import StoredRecord
from bye_audit.store.sources.containers.json_array import JsonArray, split_array

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Trickle(io.BytesIO):
    """A file that gives a few bytes at a time, so that records are cut anywhere."""

    def read(self, size: int | None = -1) -> bytes:
        del size
        return super().read(7)


@given(
    records=st.lists(json_values, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_elements_are_those_of_the_json_parser(
    records: list[object], indent: int | None, *, ascii_only: bool
) -> None:
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    pieces = list(split_array(Trickle(text.encode(errors="surrogatepass")), "x.json"))
    found = [json.loads(piece.decode(errors="surrogatepass")) for piece in pieces]
    assert found == records


@pytest.mark.parametrize(
    "text",
    ["[1, 2", '[{"a": "b]}', "[1]]", "[1] 2", "[1}", '["a\\"]', "{}", "", "  "],
    ids=str,
)
def test_broken_arrays_are_named(text: str) -> None:
    with pytest.raises(SourceFormatError) as caught:
        list(split_array(io.BytesIO(text.encode()), "x.json"))
    assert "x.json" in str(caught.value)
    assert caught.value.hint


def test_a_record_without_end_is_refused_before_memory_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_array, "MAX_RECORD_BYTES", 1000)
    with pytest.raises(SourceFormatError, match="larger than"):
        list(split_array(Trickle(b"[1" + b" " * 5000), "x.json"))


def test_a_bad_record_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": 1}, {"a": }, {"a": "\xff"}, ' + b"[" * 9000 + b"]" * 9000 + b", 4]")
    records = list(JsonArray().records(path, 0))
    assert [record.fault is None for record in records] == [True, False, False, False, True]
    assert [record.row for record in records] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1},{"id": 2},{"id": 3}]',
        '[\n  {"id": 1},\n  {"id": 2},\n  {"id": 3}\n]\n',
        '\ufeff [\r\n{"id":  1}\r\n,\r\n{"id": 2}\r\n,\r\n{"id":3.0e1}\r\n]',
        '[{"id": 1}]',
        "[]\n",
    ],
    ids=["compact", "lines", "odd", "one", "none"],
)
def test_writing_all_records_gives_the_same_file(tmp_path: Path, text: str) -> None:
    path, back = tmp_path / "x.json", tmp_path / "y.json"
    path.write_bytes(text.encode())
    source_format = JsonArray()
    records = [StoredRecord(record.raw, []) for record in source_format.records(path, 0)]
    source_format.write(back, records, source_format.describe(path), lambda _: {})
    assert back.read_bytes() == path.read_bytes()


def test_reading_from_a_row_on_skips_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[10, 11, 12, 13]")
    assert [(r.row, r.value) for r in JsonArray().records(path, 2)] == [(2, 12), (3, 13)]
