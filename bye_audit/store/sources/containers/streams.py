"""Files as streams of bytes, decompressed on the way where they are compressed.

Shapes of names: ``train.jsonl``, ``train.jsonl.gz``, ``train.jsonl.zst``.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from bye_audit.store.sources.containers.base import unreadable

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BUFFER_BYTES = 1 << 20
_GZIP_LEVEL = 6
_MAX_BLANK_BYTES = 1 << 16


def compression_of(opening: bytes) -> str | None:
    """Tell by a file's first bytes whether and how it is compressed."""
    return next((name for magic, name in _MAGIC.items() if opening.startswith(magic)), None)


def read_compression(path: Path) -> str | None:
    """Tell whether and how a file is compressed."""
    with path.open("rb") as file:
        return compression_of(file.read(4))


class SourceStream(io.BufferedReader):
    """What a file holds, and how much of the file on disk it took to read it."""

    def __init__(self, file: IO[bytes], compression: str | None) -> None:
        self._file = file
        self._reported = 0
        inner: Any = file
        if compression is not None:
            inner = pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)
        super().__init__(inner, _BUFFER_BYTES)

    def advanced(self) -> int:
        """Count the bytes of the file that were read since this was last asked."""
        position = self._file.tell()
        self._reported, before = position, self._reported
        return position - before


@contextmanager
def open_stream(path: Path) -> Iterator[SourceStream]:
    """Open a file at the start of what it holds.

    Raises
    ------
    SourceFormatError
        If it is compressed and does not decompress to its end.
    """
    compression = read_compression(path)
    with path.open("rb", buffering=0) as file:
        try:
            yield SourceStream(file, compression)
        except OSError as error:
            if compression is None:
                raise
            raise unreadable(path, compression, error) from error


def read_end(path: Path, num_bytes: int) -> bytes:
    """Give the last bytes of what a file holds; a compressed one is read from end to end."""
    if read_compression(path) is None:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            return file.read()
    end = b""
    with open_stream(path) as stream:
        while chunk := stream.read(_BUFFER_BYTES):
            end = (end + chunk)[-num_bytes:]
    return end


def read_blank_end(path: Path, blanks: str) -> str:
    """Give the lines of nothing but blanks after the last line that is none."""
    end = read_end(path, _MAX_BLANK_BYTES).decode("ascii", "replace")
    blank = end[len(end.rstrip(blanks)) :]
    # Up to the first line break it is the last line's own.
    return blank.partition("\n")[2]


@contextmanager
def create_stream(path: Path, compression: str | None) -> Iterator[IO[bytes]]:
    """Make a file that holds what is written to it; the same content gives the same bytes."""
    with path.open("wb") as file:
        if compression == "gzip":
            # Neither name nor time, which gzip would write into its head.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        elif compression == "zstd":
            with pa.CompressedOutputStream(pa.PythonFile(file, "w"), "zstd") as packed:
                yield packed
        else:
            yield file
