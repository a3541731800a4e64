"""JSON lines: one record a line, images as paths or as base64 ``data:`` URLs inside the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers import json_text
from bye_audit.store.sources.containers.base import (
    MAX_RECORD_BYTES,
    PEEK_BYTES,
    SourceRecord,
)
from bye_audit.store.sources.containers.json_text import JSON_SPACE
from bye_audit.store.sources.containers.streams import (
    open_stream,
    read_blank_end,
    read_compression,
)

_BOM = b"\xef\xbb\xbf"


class JsonLines(json_text.JsonRecords):
    """Lines of JSON, as OpenAI's chat fine-tuning and most newer recipes use them."""

    name = "jsonl"
    title = "JSON lines"
    unit = "bytes"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by a first line that is an object, or looks like one of many; empty files too."""
        text = opening.removeprefix(_BOM).lstrip()
        # An empty file is empty in any layout; ingest says so.
        return path.is_file() and (not text or (text.startswith(b"{") and _is_line(text, opening)))

    def describe(self, path: Path) -> dict[str, Any]:
        """Find what is before the first line and after the last."""
        with open_stream(path) as file:
            opening = file.read(len(_BOM))
        return {
            "total": path.stat().st_size,
            "head": "\ufeff" if opening == _BOM else "",
            "tail": read_blank_end(path, JSON_SPACE.decode()),
            "compression": read_compression(path),
        }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read lines one by one; empty ones are no records and go with the next."""
        row, num_blank = 0, 0
        blank: list[bytes] = []
        with open_stream(path) as file:
            while line := file.readline(MAX_RECORD_BYTES):
                num_blank += len(line)
                if num_blank >= MAX_RECORD_BYTES:
                    raise SourceFormatError(
                        f"{path} has a line of more than {MAX_RECORD_BYTES} bytes after record "
                        f"{row}.",
                        hint="Check that the file is JSONL, one record a line.",
                    )
                if row == 0 and not blank:
                    line = line.removeprefix(_BOM)
                blank.append(line)
                if not line.strip(JSON_SPACE):
                    continue
                if row >= first_row:
                    yield json_text.parse_record(row, b"".join(blank), file.advanced())
                row, blank, num_blank = row + 1, [], 0


def _is_line(text: bytes, opening: bytes) -> bool:
    line, newline, rest = text.partition(b"\n")
    if not newline and len(opening) >= PEEK_BYTES:
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        # A broken first line before whole ones is one bad record, not another layout.
        return rest.lstrip().startswith(b"{")
    return True
