"""CSV and TSV: rows keep their bytes, whatever is in their quotes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sources import draw_png

from bye_audit.errors import SourceFormatError
from bye_audit.ingest import ingest_samples
from bye_audit.store.export import export_split
from bye_audit.store.sources.containers import recognise_container
from bye_audit.store.sources.containers.base import StoredRecord
from bye_audit.store.sources.containers.delimited import Delimited
from bye_audit.store.tables import AuditTables

FORMAT = Delimited()


def write_back(path: Path) -> bytes:
    back = path.with_name("back.csv")
    records = [StoredRecord(record.raw, []) for record in FORMAT.records(path, 0)]
    FORMAT.write(back, records, FORMAT.describe(path), lambda _: {})
    return back.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "image,question,answer\na.png,what?,a star\n",
        "\ufeffimage;question;answer\r\na.png;what?;a star\r\n\r\n\r\n",
        'image\tanswer\n\n\na.png\t5" disk\nb.png\tx',
        'image,answer\r\na.png,"two\nlines, ""quoted"""\r\n\nb.png,x\n\n',
        "image,answer\n",
    ],
)
def test_writing_all_rows_gives_the_same_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    assert write_back(path) == text.encode()


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@given(rows=st.lists(st.tuples(cell, cell, cell), max_size=6), end=st.sampled_from(["\n", "\r\n"]))
def test_rows_are_what_the_standard_reader_finds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], end: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([("image", "question", "answer"), *rows])
    path.write_bytes(text.getvalue().encode())
    found = list(FORMAT.records(path, 0))
    description = FORMAT.describe(path)
    wanted = [dict(zip(("image", "question", "answer"), row, strict=True)) for row in rows]
    assert [record.value for record in found] == [
        {name: value or None for name, value in row.items()} for row in wanted
    ]
    assert [FORMAT.value_of(record.raw, description) for record in found] == [
        record.value for record in found
    ]
    assert write_back(path) == path.read_bytes()
    assert [record.row for record in FORMAT.records(path, 2)] == list(range(2, len(rows)))


def test_a_row_that_is_none_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"image,answer\na,b,c\na,\xff\na,\0b\na,b\n")
    faults = [record.fault for record in FORMAT.records(path, 0)]
    assert [fault and str(fault.code) for fault in faults] == ["bad_row"] * 3 + [None]


@pytest.mark.parametrize("head", ["", "\n\n", "hello\na\n", "a,a\n1,2\n", ",,\n1,2,3\n"])
def test_a_table_without_names_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(head)
    with pytest.raises(SourceFormatError, match="first row"):
        FORMAT.describe(path)


def test_a_table_is_ingested_and_given_back(tmp_path: Path) -> None:
    lines = ["id,image,question,answer"]
    for number in range(4):
        content, answer = draw_png(number)
        (tmp_path / f"{number}.png").write_bytes(content)
        lines.append(f'{number},{number}.png,"What, if anything?","{answer}"')
    lines.append("9,missing.png,What?,nothing")
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines) + "\n")
    assert recognise_container(path).name == "csv"
    tables = AuditTables.create(tmp_path / "audit")
    summary = ingest_samples(tables, [path])
    assert (summary.num_samples, summary.num_quarantined) == (4, 1)
    assert summary.by_source[0].format == "columns"
    rows = tables.read_samples(["source_id", "messages"]).to_pylist()
    assert rows[1]["source_id"] == "1"
    assert rows[1]["messages"][0]["content"] == "What, if anything?"
    result = export_split(tables, tmp_path / "out", "source_row <> 2", "source_row = 2")
    kept = (tmp_path / "out" / "cleaned" / "x.csv").read_text()
    assert kept == "\n".join([*lines[:3], lines[4]]) + "\n"
    assert result.num_image_files == 3


def test_captions_need_no_question(tmp_path: Path) -> None:
    content, answer = draw_png(1)
    (tmp_path / "a.png").write_bytes(content)
    path = tmp_path / "metadata.csv"
    path.write_text(f"file_name,text\na.png,{json.dumps(answer)}\n")
    tables = AuditTables.create(tmp_path / "audit")
    assert ingest_samples(tables, [path]).num_samples == 1
    (row,) = tables.read_samples(["messages"]).to_pylist()
    assert [turn["content"] for turn in row["messages"]] == ["<image>", answer]
