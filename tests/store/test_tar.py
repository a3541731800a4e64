"""WebDataset tars: samples of several members, and every byte of the archive given back."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from support.sources import draw_png

from bye_audit.errors import SourceFormatError
from bye_audit.ingest import ingest_samples
from bye_audit.store.export import export_split
from bye_audit.store.sources.containers import recognise_container, tar
from bye_audit.store.sources.containers.base import StoredRecord
from bye_audit.store.sources.containers.tar import TarShard
from bye_audit.store.sources.dialects.turns import read_turns
from bye_audit.store.tables import AuditTables

FORMAT = TarShard()
TURNS = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a star"}]


def write_shard(path: Path, num_samples: int = 4) -> Path:
    """Write a shard with WebDataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(num_samples):
            content, answer = draw_png(number)
            writer.write({"__key__": f"train/{number:04d}", "png": content, "txt": answer})
    return path


def write_members(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(content))
    return path


def write_back(path: Path) -> bytes:
    back = path.with_name("back.tar")
    stored = [
        StoredRecord(FORMAT.stored_raw(record, [], []), []) for record in FORMAT.records(path, 0)
    ]
    FORMAT.write(back, stored, FORMAT.describe(path), lambda _: {})
    return back.read_bytes()


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_writing_all_samples_gives_the_same_file(tmp_path: Path, layout: int) -> None:
    members = [
        ("./", b""),
        ("./a.png", draw_png(1)[0]),
        ("./a.txt", b"a star"),
        ("sub/", b""),
        ("sub/" + "long" * 20 + ".json", json.dumps({"conversations": TURNS}).encode()),
        ("sub/b.png", b""),
    ]
    path = write_members(tmp_path / "x.tar", members, format=layout)
    assert recognise_container(path).name == "webdataset"
    assert write_back(path) == path.read_bytes()
    assert [record.row for record in FORMAT.records(path, 1)] == [1, 2]


def test_any_number_of_zeros_may_end_it(tmp_path: Path) -> None:
    whole = write_members(tmp_path / "x.tar", [("a.txt", b"a star")]).read_bytes()
    path = tmp_path / "y.tar"
    for end in (1024, 5000, 20_480):
        path.write_bytes(whole[:1024] + bytes(end))
        assert write_back(path) == path.read_bytes()


def test_a_shard_is_ingested_and_what_is_kept_opens_in_webdataset(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shards" / "x-000000.tar")
    tables = AuditTables.create(tmp_path / "audit")
    summary = ingest_samples(tables, [tmp_path / "shards"])
    assert (summary.num_samples, summary.num_images) == (4, 4)
    rows = tables.read_samples(["source_id", "messages", "raw"]).to_pylist()
    assert rows[2]["source_id"] == "train/0002"
    assert [turn["content"] for turn in rows[2]["messages"]] == ["<image>", draw_png(2)[1]]
    # The image is not in there a second time.
    assert max(len(row["raw"]) for row in rows) < 1000
    export_split(tables, tmp_path / "all", "true", "false")
    assert (tmp_path / "all" / "cleaned" / path.name).read_bytes() == path.read_bytes()
    export_split(tables, tmp_path / "some", "source_row <> 1", "source_row = 1")
    with (tmp_path / "some" / "cleaned" / path.name).open("rb") as shard:
        kept = webdataset.tariterators.group_by_keys(
            webdataset.tariterators.tar_file_expander([{"url": path.name, "stream": shard}])
        )
        found = [(sample["__key__"], sample["png"], sample["txt"].decode()) for sample in kept]
    assert found == [(f"train/{n:04d}", *draw_png(n)) for n in (0, 2, 3)]


def test_json_names_the_order_of_several_images(tmp_path: Path) -> None:
    record = {
        "images": ["k.two.png", "k.one.png"],
        "conversations": [{"from": "human", "value": "<image><image>?"}, TURNS[1]],
    }
    members = [
        ("k.one.png", draw_png(1)[0]),
        ("k.two.png", draw_png(2)[0]),
        ("k.json", json.dumps(record).encode()),
        ("l.png", draw_png(3)[0]),
        ("l.json", json.dumps(TURNS).encode()),
        ("m.mp4", b"moves"),
        ("m.txt", b"a cat"),
    ]
    first, second, third = FORMAT.records(write_members(tmp_path / "x.tar", members), 0)
    images = read_turns(first.value).images
    assert [image.content for image in images] == [draw_png(2)[0], draw_png(1)[0]]
    assert read_turns(second.value).images[0].content == draw_png(3)[0]
    assert third.value == {"id": "m", "caption": "a cat", "videos": ["mp4"]}


def test_what_is_wrong_with_a_sample_costs_it_alone(tmp_path: Path) -> None:
    members = [
        ("a.json", b"{"),
        ("b.txt", b"\xff"),
        ("c.txt", b"fine"),
        ("README", b"no sample"),
    ]
    path = write_members(tmp_path / "x.tar", members)
    faults = [record.fault for record in FORMAT.records(path, 0)]
    assert [fault and str(fault.code) for fault in faults] == [
        "bad_json",
        "bad_row",
        None,
        "bad_row",
    ]
    assert write_back(path) == path.read_bytes()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        text = tarfile.TarInfo("a.txt")
        text.size = 4
        archive.addfile(text, io.BytesIO(b"root"))
    (record,) = FORMAT.records(path, 0)
    assert record.value == {"id": "a", "caption": "root"}
    assert write_back(path) == path.read_bytes()


def spoil(whole: bytes, how: str) -> bytes:
    return {
        "cut in a member": whole[:700],
        "cut in a header": whole[: 2 * 512 + 100],
        "without an end": whole[:2048],
        "with another behind it": whole + whole,
        "with a broken second header": whole[:1024] + b"x" * 512 + whole[1536:],
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut in a member",
        "cut in a header",
        "without an end",
        "with another behind it",
        "with a broken second header",
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_an_archive_that_is_not_whole_is_refused(tmp_path: Path, how: str, is_packed: bool) -> None:
    whole = write_members(tmp_path / "x.tar", [("a.txt", b"a"), ("b.txt", b"b")]).read_bytes()
    path = tmp_path / "y.tar.gz"
    spoilt = spoil(whole, how)
    path.write_bytes(gzip.compress(spoilt) if is_packed else spoilt)
    with pytest.raises(SourceFormatError, match="not a readable tar"):
        list(FORMAT.records(path, 0))


def test_a_sample_without_end_is_refused_before_memory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"a.{number}.png", bytes(1000)) for number in range(20)]
    path = write_members(tmp_path / "x.tar", members)
    monkeypatch.setattr(tar, "MAX_RECORD_BYTES", 10_000)
    with pytest.raises(SourceFormatError, match="over 10000 bytes"):
        list(FORMAT.records(path, 0))


def test_packed_shards_hold_the_same(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", 2)
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert recognise_container(packed).name == "webdataset"
    assert gzip.decompress(write_back(packed)) == path.read_bytes()
