"""A JSON array of records in a file, split without parsing it whole.

A streaming parser gives objects, but not the bytes they came from; here every record keeps its own
bytes, so that what survives the filter is written back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers import json_text
from bye_audit.store.sources.containers.base import (
    MAX_RECORD_BYTES,
    LoadImages,
    SourceRecord,
    StoredRecord,
)
from bye_audit.store.sources.containers.json_text import JSON_SPACE
from bye_audit.store.sources.containers.streams import (
    create_stream,
    open_stream,
    read_compression,
    read_end,
)

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_MAX_FRAMING_BYTES = 256
# Whole strings, the quote of an unfinished string, and the signs that structure JSON.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)
_DEFAULT_FRAMING = {"head": "[\n", "separator": ",\n", "tail": "\n]\n"}


class JsonArray(json_text.JsonRecords):
    """A JSON array of records, as LLaVA and most of its successors use it."""

    name = "json"
    title = "JSON array"
    unit = "bytes"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the opening bracket."""
        return opening.removeprefix(_BOM).lstrip(JSON_SPACE).startswith(b"[")

    def describe(self, path: Path) -> dict[str, Any]:
        """Find the file's size and the white space between its records.

        Raises
        ------
        SourceFormatError
            If the file is no JSON array or has no end.
        """
        end = read_end(path, _MAX_FRAMING_BYTES)
        if not end.rstrip(JSON_SPACE).endswith(b"]"):
            raise SourceFormatError(
                f"{path} does not end with the `]` of a JSON array; it may have been cut off.",
                hint="Fetch the file again, or check that it is a JSON array.",
            )
        return {
            "total": path.stat().st_size,
            "framing": _framing(path, end),
            "compression": read_compression(path),
        }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read records one by one."""
        with open_stream(path) as file:
            for row, piece in enumerate(split_array(file, str(path))):
                if row >= first_row:
                    raw = piece.strip(JSON_SPACE)
                    yield json_text.parse_record(row, raw, file.advanced())

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write records with the white space their source had between them."""
        framing = description.get("framing") or _DEFAULT_FRAMING
        with create_stream(path, description.get("compression")) as file:
            before = framing["head"]
            for raw in json_text.restored(records, load_images):
                file.write(before.encode() + raw)
                before = framing["separator"]
            is_empty = before == framing["head"]
            file.write(b"[]\n" if is_empty else framing["tail"].encode())


def split_array(file: IO[bytes], where: str) -> Iterator[bytes]:
    """Cut a JSON array into its elements' bytes, surrounding white space included.

    Parameters
    ----------
    file
        Open at its start; read in chunks. Memory holds one element at a time.
    where
        The file's name, for messages.

    Raises
    ------
    SourceFormatError
        If the array has no beginning or no end, or one element is impossibly large.
    """
    buffer, start = _open_array(file, where)
    scan, depth, num_elements = start, 0, 0
    while True:
        for token in _TOKEN.finditer(buffer, scan):
            sign = buffer[token.start()]
            if sign == 0x22 and token.end() - token.start() == 1:
                scan = token.start()
                break
            scan = token.end()
            if sign in b"{[":
                depth += 1
            elif sign in b"}]" and depth:
                depth -= 1
            elif sign == 0x2C and not depth:
                yield buffer[start : token.start()]
                num_elements += 1
                start = scan
            elif sign in b"}]":
                last = buffer[start : token.start()]
                if last.strip(JSON_SPACE):
                    yield last
                _check_end(sign, buffer[scan:] + file.read(_CHUNK_BYTES), where)
                return
        else:
            # Numbers and words cannot hold structure; the next chunk is scanned from its start.
            scan = max(scan, len(buffer))
        buffer, scan, start = buffer[start:], scan - start, 0
        if len(buffer) > MAX_RECORD_BYTES:
            raise _broken(where, f"record {num_elements} is larger than {MAX_RECORD_BYTES} bytes")
        more = file.read(max(_CHUNK_BYTES, len(buffer)))
        if not more:
            raise _broken(where, f"it breaks off in record {num_elements}")
        buffer += more


def _open_array(file: IO[bytes], where: str) -> tuple[bytes, int]:
    buffer = file.read(_CHUNK_BYTES)
    start = len(_BOM) if buffer.startswith(_BOM) else 0
    start = len(buffer) - len(buffer[start:].lstrip(JSON_SPACE))
    if buffer[start : start + 1] != b"[":
        raise SourceFormatError(
            f"{where} is not a JSON array of records.",
            hint="Check that the file is a list of objects, or one object a line.",
        )
    return buffer, start + 1


def _check_end(sign: int, rest: bytes, where: str) -> None:
    if sign != 0x5D or rest.strip(JSON_SPACE):
        raise _broken(where, "something follows the end of its array")


def _framing(path: Path, end: bytes) -> dict[str, str]:
    """Find the text before, between and after records; records themselves need none of it."""
    with open_stream(path) as file:
        pieces = [piece for piece, _ in zip(split_array(file, str(path)), range(2), strict=False)]
    with open_stream(path) as file:
        opening = file.read(_MAX_FRAMING_BYTES)
    if not pieces:
        return dict(_DEFAULT_FRAMING)
    head = opening[: opening.index(b"[") + 1] + _leading(pieces[0])
    tail_length = len(end) - len(end.rstrip(JSON_SPACE)[:-1].rstrip(JSON_SPACE))
    framing = {"head": head, "tail": end[len(end) - tail_length :], "separator": b",\n"}
    if len(pieces) > 1:
        trailing = pieces[0][len(pieces[0].rstrip(JSON_SPACE)) :]
        framing["separator"] = trailing + b"," + _leading(pieces[1])
    if any(len(part) >= _MAX_FRAMING_BYTES for part in framing.values()):
        return dict(_DEFAULT_FRAMING)
    return {name: part.decode() for name, part in framing.items()}


def _leading(piece: bytes) -> bytes:
    return piece[: len(piece) - len(piece.lstrip(JSON_SPACE))]


def _broken(where: str, what: str) -> SourceFormatError:
    return SourceFormatError(
        f"{where} is not readable JSON: {what}.",
        hint="Fetch the file again; nothing of it was kept.",
    )
