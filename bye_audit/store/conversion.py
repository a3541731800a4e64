"""Kept samples in another format than the one they came in, images and all."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bye_audit.schema import IMAGE_PLACEHOLDER
from bye_audit.store.image_features import trl_schema

_SHARD_BYTES = 400 << 20
_GROUP_ROWS = 100
_IMAGES = "images"
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
_MAGIC = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True, slots=True)
class KeptSample:
    """One sample on its way into another format.

    Parameters
    ----------
    sample_id
        Its own name in the audit.
    messages
        ``role`` and ``content``, with ``<image>`` where an image belongs.
    images
        Digest and bytes of each.
    """

    sample_id: str
    messages: list[dict[str, str]]
    images: list[tuple[str, bytes]]


Written = Iterator[tuple[Path, int]]
"""Files that hold records, and how many."""


def to_jsonl(folder: Path, split: str, samples: Iterator[KeptSample]) -> Written:
    """Write lines of ``messages`` and ``images``, as LLaMA-Factory and ms-swift read them."""
    path = folder / f"{split}.jsonl"
    num_rows = 0
    with path.open("wb") as file:
        for sample in samples:
            record = {
                "id": sample.sample_id,
                "messages": sample.messages,
                "images": _write_images(folder, sample),
            }
            file.write(_dump(record) + b"\n")
            num_rows += 1
    yield path, num_rows


def to_llava(folder: Path, split: str, samples: Iterator[KeptSample]) -> Written:
    """Write a JSON array of ``conversations``; ``image`` is a list where there are several."""
    path = folder / f"{split}.json"
    num_rows = 0
    with path.open("wb") as file:
        file.write(b"[")
        for sample in samples:
            paths = _write_images(folder, sample)
            record: dict[str, Any] = {"id": sample.sample_id}
            if paths:
                record["image"] = paths[0] if len(paths) == 1 else paths
            record["conversations"] = [
                {"from": _SPEAKERS[turn["role"]], "value": turn["content"]}
                for turn in sample.messages
            ]
            file.write((b",\n" if num_rows else b"\n") + _dump(record))
            num_rows += 1
        file.write(b"\n]\n")
    yield path, num_rows


def to_webdataset(folder: Path, split: str, samples: Iterator[KeptSample]) -> Written:
    """Write tar shards: of each sample its images and a JSON that names them."""
    left, number, row = _Ahead(samples), 0, 0
    while left or not number:
        path, begun = folder / f"{split}-{number:06d}.tar", row
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in left:
                _add_sample(archive, f"{row:09d}", sample)
                row += 1
                if archive.offset >= _SHARD_BYTES:
                    break
        yield path, row - begun
        number += 1


def to_trl(folder: Path, split: str, samples: Iterator[KeptSample]) -> Written:
    """Write Parquet of ``images`` and ``messages`` whose contents are lists of parts."""
    left, number, columns = _Ahead(samples), 0, trl_schema()
    while left or not number:
        path, num_rows = folder / f"{split}-{number:05d}.parquet", 0
        with pq.ParquetWriter(path, columns, compression="zstd") as writer:
            while rows := list(map(_trl_row, islice(left, _GROUP_ROWS))):
                writer.write_table(pa.Table.from_pylist(rows, schema=columns))
                num_rows += len(rows)
                if path.stat().st_size >= _SHARD_BYTES:
                    break
        yield path, num_rows
        number += 1


CONVERSIONS: dict[str, Callable[[Path, str, Iterator[KeptSample]], Written]] = {
    "jsonl": to_jsonl,
    "llava": to_llava,
    "webdataset": to_webdataset,
    "trl": to_trl,
}
"""What writes a split in each format."""


class _Ahead:
    """An iterator that tells whether there is more."""

    def __init__(self, samples: Iterator[KeptSample]) -> None:
        self._samples = samples
        self._next = next(samples, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def __iter__(self) -> Iterator[KeptSample]:
        while self._next is not None:
            found, self._next = self._next, next(self._samples, None)
            yield found


def _write_images(folder: Path, sample: KeptSample) -> list[str]:
    """Write a sample's images under their digests, each once, and give their paths."""
    (folder / _IMAGES).mkdir(exist_ok=True)
    paths = [f"{_IMAGES}/{digest}.{_ending(content)}" for digest, content in sample.images]
    for path, (_, content) in zip(paths, sample.images, strict=True):
        if not (folder / path).exists():
            (folder / path).write_bytes(content)
    return paths


def _ending(content: bytes) -> str:
    return next((end for magic, end in _MAGIC.items() if content.startswith(magic)), "tif")


def _dump(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _add_sample(archive: tarfile.TarFile, key: str, sample: KeptSample) -> None:
    names = [f"{number}.{_ending(content)}" for number, (_, content) in enumerate(sample.images)]
    record = {"id": sample.sample_id, "messages": sample.messages, "images": names}
    parts = [content for _, content in sample.images]
    for name, content in (*zip(names, parts, strict=True), ("json", _dump(record))):
        info = tarfile.TarInfo(f"{key}.{name}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def _trl_row(sample: KeptSample) -> dict[str, Any]:
    return {
        "images": [{"bytes": content, "path": None} for _, content in sample.images],
        "messages": [
            {"role": turn["role"], "content": list(_parts(turn["content"]))}
            for turn in sample.messages
        ],
    }


def _parts(content: str) -> Iterator[dict[str, str | None]]:
    for number, text in enumerate(content.split(IMAGE_PLACEHOLDER)):
        if number:
            yield {"type": "image", "text": None}
        if text:
            yield {"type": "text", "text": text}
