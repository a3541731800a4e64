"""Sources that are broken in some way, each with one good record where a record can be good."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ASK = {"from": "human", "value": "<image>\nwhat?"}
TELL = {"from": "gpt", "value": "a star"}
TURNS = [ASK, TELL]
GOOD = {"id": 0, "image": "good.png", "conversations": TURNS}

Case = tuple[str, Callable[[Path], Path]]


def encode(kind: str, side: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def cases() -> Iterator[Case]:
    """Give each broken source a name and what writes it into a folder."""
    yield from _records()
    yield from _arrays_and_lines()
    yield from _images()
    yield from _tables()
    yield from _tars()
    yield from _arrow()
    yield from _packed()


# --- records that are no conversation -----------------------------------------------------------


def _bad_records() -> dict[str, str]:
    """Give the text of records that are JSON, or nearly."""

    def text(**changes: Any) -> str:
        return json.dumps({**GOOD, **changes})

    nested = "[" * 5000 + "]" * 5000
    return {
        "a number": "5",
        "a text": '"hello"',
        "null": "null",
        "a list of turns": json.dumps(TURNS),
        "an empty object": "{}",
        "an empty list": "[]",
        "nothing but an id": '{"id": 1}',
        "not a number": '{"id": NaN, "conversations": 5}',
        "a trailing comma": '{"id": 1,}',
        "single quotes": "{'id': 1}",
        "a comment": '{"id": 1 /* one */}',
        "an unknown escape": '{"id": "\\q"}',
        "a control sign": '{"id": "\x01"}',
        "nested too deeply": '{"id": ' + nested + "}",
        "an integer of 6,000 digits": '{"id": ' + "9" * 6000 + "}",
        "half a surrogate pair": '{"image": "good.png", "conversations": [{"from": "human", '
        '"value": "<image>"}, {"from": "gpt", "value": "\\ud800"}]}',
        "conversations as text": text(conversations="hello"),
        "conversations as number": text(conversations=5),
        "no turns": text(conversations=[]),
        "a turn as text": text(conversations=["hello"]),
        "a turn as list": text(conversations=[[]]),
        "a turn without text": text(conversations=[ASK, {"from": "gpt"}]),
        "a turn without role": text(conversations=[ASK, {"value": "x"}]),
        "an unknown role": text(conversations=[ASK, {"from": "wizard", "value": "x"}]),
        "a role as list": text(conversations=[ASK, {"from": [], "value": "x"}]),
        "text as number": text(conversations=[ASK, {"from": "gpt", "value": 5}]),
        "no answer": text(conversations=[ASK]),
        "an answer first": text(conversations=[TELL, ASK]),
        "an empty answer": text(conversations=[ASK, {"from": "gpt", "value": " \n"}]),
        "1,001 turns": text(conversations=TURNS * 501),
        "an image in the answer": text(conversations=[ASK, {"from": "gpt", "value": "<image>"}]),
        "two marks for one image": text(
            conversations=[{"from": "human", "value": "<image><image>"}, TELL]
        ),
        "two images for one mark": text(image=["good.png", "good.png"]),
        "a mark without image": json.dumps({"conversations": TURNS}),
        "an image as number": text(image=5),
        "an image as empty text": text(image=""),
        "an image as null in a list": text(image=[None]),
        "an image as empty object": text(image={}),
        "an image as object of nulls": text(image={"bytes": None, "path": None}),
        "an image that is not there": text(image="none.png"),
        "an image outside": text(image="../secret.png"),
        "an image at the root": text(image="/etc/passwd"),
        "an image on another drive": text(image="C:\\secret.png"),
        "an image with a NUL": text(image="good.png\0.jpg"),
        "an image that is a folder": text(image="."),
        "an image behind a link": text(image="link.png"),
        "an image on the network": text(image="https://example.org/a.png"),
        "an image in a bucket": text(image="s3://bucket/a.png"),
        "an image with a name too long": text(image="x" * 5000),
        "a data URL without base64": text(image="data:image/png,hello"),
        "a data URL of broken base64": text(image="data:image/png;base64,%%%"),
        "a data URL of nothing": text(image="data:image/png;base64,"),
        "a data URL of text": text(
            image="data:image/png;base64," + base64.b64encode(b"hello").decode()
        ),
        "images inside and beside": json.dumps(
            {
                "image": "good.png",
                "messages": [
                    {"role": "user", "content": [{"type": "image", "image": "good.png"}]},
                    {"role": "assistant", "content": "x"},
                ],
            }
        ),
        "a part of unknown type": json.dumps(
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}
        ),
        "a part as number": json.dumps({"messages": [{"role": "user", "content": [5]}]}),
        "a history that is none": json.dumps(
            {"image": "good.png", "query": "?", "response": "x", "history": [["alone"]]}
        ),
    }


def _records() -> Iterator[Case]:
    for name, record in _bad_records().items():
        for kind, layout in (("json", "[{}, {}]"), ("jsonl", "{}\n{}\n")):
            whole = layout.replace("{}", "%s") % (json.dumps(GOOD), record)
            yield f"{kind}: {name}", _with_images(f"x.{kind}", whole.encode())


def _arrays_and_lines() -> Iterator[Case]:
    good = json.dumps(GOOD).encode()
    wholes = {
        "x.json": {
            "nothing": b"",
            "a bracket": b"[",
            "no end": b"[" + good,
            "cut in a text": b"[" + good[:-9],
            "two arrays": b"[" + good + b"][" + good + b"]",
            "text after the end": b"[" + good + b"] and so on",
            "a wrong bracket": b"[" + good + b"}",
            "empty records": b"[" + good + b",,]",
            "an object of lists": b'{"data": [' + good + b"]}",
            "not UTF-8": b"[" + good + b', {"id": "\xff"}]',
            "UTF-16": ("[" + good.decode() + "]").encode("utf-16"),
            "zeros": bytes(5000),
            "a picture": encode("PNG"),
        },
        "x.jsonl": {
            "nothing": b"",
            "blanks": b"\n \n\t\n",
            "a broken line": good + b'\n{"id": \n',
            "cut off": good + b"\n" + good[:-9],
            "not UTF-8": good + b'\n{"id": "\xff"}\n',
            "a NUL": good + b"\n\0\n",
            "lines of an array": b"[\n" + good + b",\n",
            "text": b"hello\nworld\n",
        },
    }
    for name, found in wholes.items():
        for what, whole in found.items():
            yield f"{name}: {what}", _with_images(name, whole)


def _with_images(name: str, whole: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        inside = folder / "in"
        inside.mkdir(parents=True)
        (inside / "good.png").write_bytes(encode("PNG"))
        (folder / "secret.png").write_bytes(encode("PNG"))
        (inside / "link.png").symlink_to(folder / "secret.png")
        (inside / name).write_bytes(whole)
        return inside / name

    return write


# --- images -------------------------------------------------------------------------------------


def _bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def _images() -> Iterator[Case]:
    broken = {
        "empty": b"",
        "a page": b"<html>404</html>",
        "zeros": bytes(4000),
        "a bomb": _bomb(),
        "a script": b"%!PS-Adobe-3.0\n(evil) run\n",
        "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        content = encode(kind)
        broken[f"{kind} cut at two thirds"] = content[: len(content) * 2 // 3]
        broken[f"{kind} cut in its head"] = content[:12]
    for name, content in broken.items():
        yield f"image: {name}", _with_broken_image(content)


def _with_broken_image(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        records = [GOOD, {**GOOD, "image": "broken.png"}]
        path = _with_images("x.json", json.dumps(records).encode())(folder)
        path.with_name("broken.png").write_bytes(content)
        return path

    return write


# --- tables and archives ------------------------------------------------------------------------


def _tables() -> Iterator[Case]:
    head = b"image,question,answer\ngood.png,what?,a star\n"
    wholes = {
        "nothing": b"",
        "one column": b"image\ngood.png\n",
        "two columns alike": b"image,image\na,b\n",
        "names alone": b"image,question,answer\n",
        "a cell too many": head + b"a,b,c,d\n",
        "a cell too few": head + b"a,b\n",
        "an open quote": head + b'good.png,"what?,a star\n',
        "not UTF-8": head + b"good.png,what?,\xff\n",
        "a NUL": head + b"good.png,what\0?,a star\n",
        "no answer": head + b"good.png,what?,\n",
        "no question": head + b"good.png,,a star\n",
        "another image": head + b"../secret.png,what?,a star\n",
        "columns of no use": b"width,height\n1,2\n",
    }
    for name, whole in wholes.items():
        yield f"csv: {name}", _with_images("x.csv", whole)


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _tars() -> Iterator[Case]:
    good = [("a.png", encode("PNG")), ("a.txt", b"a star")]
    turns = json.dumps({"conversations": TURNS}).encode()
    samples = {
        "an image alone": [("b.png", encode("PNG"))],
        "a text alone": [("b.txt", b"a star")],
        "an empty text": [("b.png", encode("PNG")), ("b.txt", b"")],
        "a broken image": [("b.png", encode("PNG")[:200]), ("b.txt", b"a star")],
        "broken JSON": [("b.png", encode("PNG")), ("b.json", b"{")],
        "JSON that is a number": [("b.png", encode("PNG")), ("b.json", b"5")],
        "no image for the mark": [("b.json", turns)],
        "two images for one mark": [("b.1.png", encode("PNG")), ("b.2.png", encode("PNG")),
                                    ("b.json", turns)],
        "a text that is not UTF-8": [("b.png", encode("PNG")), ("b.txt", b"\xff")],
        "a member without an ending": [("README", b"hello")],
        "a member outside": [("../../b.png", encode("PNG")), ("../../b.txt", b"x")],
    }  # fmt: skip
    for name, members in samples.items():
        yield f"tar: {name}", _with_images("x.tar", _tar([*good, *members]))
    whole = _tar(good)
    spoilt = {
        "cut in a header": whole[:300],
        "cut in a member": whole[:900],
        "no end": whole[: -2 * 512 * 10],
        "no members": bytes(10_240),
        "another behind it": whole + whole,
        "a spoilt header": whole[:100] + b"x" * 100 + whole[200:],
    }
    for name, content in spoilt.items():
        yield f"tar: {name}", _with_images("x.tar", content)


def _rows() -> pa.Table:
    image = {"bytes": encode("PNG"), "path": None}
    return pa.table({"image": [image, image], "conversations": [TURNS, TURNS]})


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _to_arrow(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _arrow() -> Iterator[Case]:
    good = _rows()
    image = good["image"][0].as_py()

    def with_images(images: list[Any]) -> pa.Table:
        return good.set_column(0, "image", pa.array(images))

    tables = {
        "no rows": good.slice(0, 0),
        "no columns of use": pa.table({"a": [1, 2]}),
        "an image that is null": with_images([image, None]),
        "an image of no bytes": with_images([image, {"bytes": b"", "path": None}]),
        "an image that does not decode": with_images([image, {"bytes": b"hello", "path": None}]),
        "an image as number": with_images([1, 2]),
        "a path to nowhere": with_images(["none.png", "../secret.png"]),
        "turns that are null": good.set_column(
            1, "conversations", pa.array([good["conversations"][0].as_py(), None])
        ),
        "text that is not UTF-8": good.append_column(
            "name", pa.array([b"a", b"\xff"]).view(pa.string())
        ),
        "columns of the same name": pa.Table.from_arrays(
            [pa.array([1]), pa.array([2])], ["a", "a"]
        ),
    }
    for kind, encode_table in (("parquet", _to_parquet), ("arrow", _to_arrow)):
        for name, table in tables.items():
            yield f"{kind}: {name}", _with_images(f"x.{kind}", encode_table(table))
        whole = encode_table(good)
        for share in (0.1, 0.5, 0.9, 0.99):
            cut = whole[: int(len(whole) * share)]
            yield f"{kind}: cut at {share:.0%}", _with_images(f"x.{kind}", cut)
        middle = len(whole) // 2
        spoilt = whole[:middle] + bytes(64) + whole[middle + 64 :]
        yield f"{kind}: zeros in the middle", _with_images(f"x.{kind}", spoilt)


def _packed() -> Iterator[Case]:
    lines = "".join(json.dumps({**GOOD, "id": number}) + "\n" for number in range(300)).encode()
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as packed:
        packed.write(lines)
    wholes = {"gz": gzip.compress(lines), "zst": bytes(zstd.getvalue())}
    for ending, whole in wholes.items():
        for kind in ("json", "jsonl", "csv", "tar"):
            name = f"x.{kind}.{ending}"
            yield f"{name}: cut in half", _with_images(name, whole[: len(whole) // 2])
        yield f"{ending}: nothing in it", _with_images(f"x.jsonl.{ending}", whole[:0])
        spoilt = whole[:40] + bytes(20) + whole[60:]
        yield f"{ending}: spoilt", _with_images(f"x.jsonl.{ending}", spoilt)
