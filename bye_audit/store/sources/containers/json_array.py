"""A JSON array of records in a file, split without parsing it whole.

A streaming parser gives objects, but not the bytes they came from; here every record keeps its own
bytes, so that what survives the filter is written back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers import json_text
from bye_audit.store.sources.containers.base import (
    MAX_RECORD_BYTES,
    SourceRecord,
)
from bye_audit.store.sources.containers.json_text import JSON_SPACE
from bye_audit.store.sources.containers.streams import (
    open_stream,
    read_compression,
    read_end,
)

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_MAX_END_BYTES = 1 << 16
# Whole strings, the quote of an unfinished string, and the signs that structure JSON.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)


class JsonArray(json_text.JsonRecords):
    """A JSON array of records, as LLaVA and most of its successors use it."""

    name = "json"
    title = "JSON array"
    unit = "bytes"
    separator = b","

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the opening bracket."""
        return opening.removeprefix(_BOM).lstrip(JSON_SPACE).startswith(b"[")

    def describe(self, path: Path) -> dict[str, Any]:
        """Find what is before the first record and after the last.

        Raises
        ------
        SourceFormatError
            If the file is no JSON array or has no end.
        """
        end = read_end(path, _MAX_END_BYTES)
        if not end.rstrip(JSON_SPACE).endswith(b"]"):
            raise SourceFormatError(
                f"{path} does not end with the `]` of a JSON array; it may have been cut off.",
                hint="Fetch the file again, or check that it is a JSON array.",
            )
        with open_stream(path) as file:
            opening, start = _open_array(file, str(path))
        closing = end.rstrip(JSON_SPACE).removesuffix(b"]").rstrip(JSON_SPACE)
        return {
            "total": path.stat().st_size,
            "head": opening[:start].decode(),
            "tail": end[len(closing) :].decode(),
            "compression": read_compression(path),
        }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read records one by one."""
        with open_stream(path) as file:
            for row, piece in enumerate(split_array(file, str(path))):
                if row >= first_row:
                    yield json_text.parse_record(row, piece, file.advanced())


def split_array(file: IO[bytes], where: str) -> Iterator[bytes]:
    """Cut a JSON array into its elements' bytes, with the white space around each.

    White space after the last belongs to the end of the array.

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
                last = buffer[start : token.start()].rstrip(JSON_SPACE)
                # What follows a comma is a record, if only an empty one.
                if last or num_elements:
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


def _broken(where: str, what: str) -> SourceFormatError:
    return SourceFormatError(
        f"{where} is not readable JSON: {what}.",
        hint="Fetch the file again; nothing of it was kept.",
    )
