"""Chat JSONL: lines as records, images taken out of the text and put back byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from support.sources import chat_record, draw_png

from bye_audit.store.sources.containers.base import StoredRecord
from bye_audit.store.sources.containers.json_lines import JsonLines
from bye_audit.store.sources.dialects.turns import read_turns

FORMAT = JsonLines()


@pytest.mark.parametrize("text", ['{"a":1}\n{"a":2}\n', '{"a":1}\r\n{"a":2}', '\ufeff{"a":1}\n'])
def test_writing_all_records_gives_the_same_file(tmp_path: Path, text: str) -> None:
    path, back = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    path.write_bytes(text.encode())
    records = [StoredRecord(record.raw, []) for record in FORMAT.records(path, 0)]
    FORMAT.write(back, records, FORMAT.describe(path), lambda _: {})
    assert back.read_bytes() == path.read_bytes()


def test_empty_lines_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n\n  \n{bad\n')
    records = list(FORMAT.records(path, 0))
    assert [record.row for record in records] == [0, 1]
    assert records[1].fault is not None


def test_images_leave_the_text_and_come_back(tmp_path: Path) -> None:
    content, answer = draw_png(1)
    digest = hashlib.sha256(content).hexdigest()
    path, back = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    path.write_text(json.dumps(chat_record(content, answer)) + "\n")
    record = next(iter(FORMAT.records(path, 0)))
    references = read_turns(record.value).images
    raw = FORMAT.stored_raw(record, references, [digest])
    assert len(raw) < 500 < len(record.raw)
    assert digest.encode() in raw
    assert read_turns(FORMAT.value_of(raw, {})).messages[2]["content"] == answer
    stored = [StoredRecord(raw, [digest])]
    FORMAT.write(back, stored, FORMAT.describe(path), lambda _: {digest: content})
    assert back.read_bytes() == path.read_bytes()


def test_base64_that_is_not_canonical_stays_in_the_text(tmp_path: Path) -> None:
    content = draw_png(1)[0] + b"x" * 3
    content = content[: len(content) - (len(content) - 1) % 3]
    payload = base64.b64encode(content).decode()
    assert payload.endswith("==")
    # Other last bits decode to the same bytes, so the text could not be made again from them.
    odd = payload[:-3] + chr(ord(payload[-3]) + 1) + "=="
    text = json.dumps(chat_record(content, "a")).replace(payload, odd)
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    record = next(iter(FORMAT.records(path, 0)))
    references = read_turns(record.value).images
    assert FORMAT.stored_raw(record, references, ["0" * 64]) == record.raw
