"""Compressed sources hold what they would hold uncompressed, and say so if they break off."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support.sources import write_chat_source, write_llava_source

from bye_audit.errors import SourceFormatError
from bye_audit.ingest import ingest_samples
from bye_audit.store.export import export_split
from bye_audit.store.sources.containers import containers, recognise_container
from bye_audit.store.sources.containers.base import Container, StoredRecord
from bye_audit.store.sources.containers.streams import open_stream
from bye_audit.store.tables import AuditTables

TEXTS = {
    "json": '[\n  {"a": 1},\n  {"a": "\u00fc"},\n  {"a": []}\n]\n',
    "jsonl": '{"a": 1}\n{"a": "\u00fc"}\n{"a": []}',
}


def pack_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": pack_zstd}


def unpack(path: Path) -> bytes:
    with open_stream(path) as stream:
        return stream.read()


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("packing", PACKERS)
def test_packed_files_are_read_and_written_as_others_are(
    tmp_path: Path, kind: str, packing: str
) -> None:
    plain, packed = tmp_path / f"x.{kind}", tmp_path / f"x.{kind}.{packing}"
    plain.write_bytes(TEXTS[kind].encode())
    packed.write_bytes(PACKERS[packing](TEXTS[kind].encode()))
    container = recognise_container(packed)
    assert container is recognise_container(plain) is containers()[kind]
    read = list(container.records(packed, 0))
    assert [(r.row, r.raw) for r in read] == [(r.row, r.raw) for r in container.records(plain, 0)]
    assert sum(record.progress for record in read) <= packed.stat().st_size
    stored = [StoredRecord(record.raw, []) for record in read]
    backs = [tmp_path / name for name in ("one", "two")]
    for back in backs:
        container.write(back, stored, container.describe(packed), lambda _: {})
    assert unpack(backs[0]) == plain.read_bytes()
    assert backs[0].read_bytes() == backs[1].read_bytes() != plain.read_bytes()


@pytest.mark.parametrize("packing", PACKERS)
def test_files_put_one_after_the_other_are_one(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.jsonl.{packing}"
    path.write_bytes(PACKERS[packing](b'{"a": 1}\n') + PACKERS[packing](b'{"a": 2}\n'))
    found = list(containers()["jsonl"].records(path, 0))
    assert [record.value for record in found] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", TEXTS)
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, kind: str, packing: str) -> None:
    records = [{"a": number, "b": str(number) * 50} for number in range(3000)]
    lines = "\n".join(map(json.dumps, records))
    whole = PACKERS[packing]((json.dumps(records) if kind == "json" else lines).encode())
    path = tmp_path / f"x.{kind}.{packing}"
    path.write_bytes(whole[: len(whole) // 2])
    container: Container = containers()[kind]
    with pytest.raises(SourceFormatError, match="not readable"):
        list(container.records(path, 0))
    with pytest.raises(SourceFormatError, match="not readable"):
        container.describe(path)


@pytest.mark.parametrize("packing", PACKERS)
def test_packed_sources_come_back_packed(tmp_path: Path, packing: str) -> None:
    sources = [write_llava_source(tmp_path / "a", 4), write_chat_source(tmp_path / "b", 4)]
    packed = [source.with_name(f"{source.name}.{packing}") for source in sources]
    for source, path in zip(sources, packed, strict=True):
        path.write_bytes(PACKERS[packing](source.read_bytes()))
        source.unlink()
    tables = AuditTables.create(tmp_path / "audit")
    # As folders, so that their names are known.
    summary = ingest_samples(tables, [tmp_path / "a", tmp_path / "b"])
    assert (summary.num_samples, summary.num_quarantined) == (8, 0)
    result = export_split(tables, tmp_path / "out", "true", "false", formats=["source"])
    written = sorted(path for path in (tmp_path / "out" / "cleaned").rglob(f"*.{packing}"))
    assert len(written) == 2
    assert sorted(map(unpack, written)) == sorted(map(unpack, packed))
    assert result.num_kept == 8
