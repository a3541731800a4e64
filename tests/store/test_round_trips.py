"""Whatever a file holds: with nothing removed it is given back as it was, to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.store.sources.containers import containers
from bye_audit.store.sources.containers.base import StoredRecord

ODD = [
    '{"a": 1.0, "b": 1e400, "c": -0}',
    '{"id": ' + "7" * 400 + "}",
    '{"id": ' + "7" * 6000 + "}",
    '{"a": 1, "a": 2}',
    '{"a": "\\ud83d\\ude00 \\ud800 \\/ \\u00e9"}',
    '{"a": "h\u00e9 \u2028 \U0001f600"}',
    '{"a": [], "b": {}, "c": null}',
    "{}",
    "[]",
    "5",
    '"text, with ] and }"',
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
texts = st.sampled_from(ODD) | st.builds(
    lambda value, is_ascii: json.dumps(value, ensure_ascii=is_ascii),
    st.dictionaries(st.text(max_size=3), values, max_size=3),
    st.booleans(),
)
space = st.text(" \t\r\n", max_size=3)
bom = st.sampled_from(["", "\ufeff"])


def write_back(path: Path, kind: str, kept: list[int] | None = None) -> bytes:
    container = containers()[kind]
    stored = [
        StoredRecord(container.stored_raw(record, [], []), [])
        for record in container.records(path, 0)
        if kept is None or record.row in kept
    ]
    back = path.with_name("back")
    container.write(back, stored, container.describe(path), lambda _: {})
    return back.read_bytes()


@given(
    records=st.lists(st.tuples(space, texts, space), max_size=5),
    bom=bom,
    around=st.tuples(space, space, space),
)
def test_an_array(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str, str]],
    bom: str,
    around: tuple[str, str, str],
) -> None:
    path = tmp_path_factory.mktemp("array") / "x.json"
    inside = ",".join(map("".join, records))
    path.write_bytes(
        f"{bom}{around[0]}[{inside}{around[1]}]{around[2]}".encode(errors="surrogatepass")
    )
    assert write_back(path, "json") == path.read_bytes()
    # What is left when some are removed is an array of the others.
    left = list(range(0, len(records), 2))
    back = write_back(path, "json", left).decode(errors="surrogatepass").removeprefix("\ufeff")
    again = path.with_name("again.json")
    again.write_bytes(back.encode(errors="surrogatepass"))
    found = [record.raw.strip() for record in containers()["json"].records(again, 0)]
    assert found == [records[number][1].encode(errors="surrogatepass") for number in left]


@given(
    records=st.lists(
        st.tuples(
            space.filter(lambda text: "\n" not in text), texts, space.map(lambda text: text + "\n")
        )
    ),
    bom=bom,
    end=texts | st.just(""),
)
def test_lines(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str, str]],
    bom: str,
    end: str,
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    whole = "".join(map("".join, records)) + end
    path.write_bytes((bom + whole).encode(errors="surrogatepass"))
    if whole.strip():
        assert write_back(path, "jsonl") == path.read_bytes()
