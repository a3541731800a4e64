"""JSON lines: one record a line, images as paths or as base64 ``data:`` URLs inside the text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.containers import json_text
from bye_audit.store.sources.containers.base import (
    MAX_RECORD_BYTES,
    PEEK_BYTES,
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
        """Find the file's size and how its lines end."""
        with open_stream(path) as file:
            first = file.readline(MAX_RECORD_BYTES)
        framing = {
            "head": "\ufeff" if first.startswith(_BOM) else "",
            "separator": "\r\n" if first.endswith(b"\r\n") else "\n",
            "ends": read_end(path, 1) == b"\n",
        }
        compression = read_compression(path)
        return {"total": path.stat().st_size, "framing": framing, "compression": compression}

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read lines one by one; empty ones are no records."""
        row = 0
        with open_stream(path) as file:
            while line := file.readline(MAX_RECORD_BYTES):
                if len(line) >= MAX_RECORD_BYTES:
                    raise SourceFormatError(
                        f"{path} has a line of more than {MAX_RECORD_BYTES} bytes after record "
                        f"{row}.",
                        hint="Check that the file is JSONL, one record a line.",
                    )
                raw = line.removeprefix(_BOM) if row == 0 else line
                raw = raw.strip(JSON_SPACE)
                if not raw:
                    continue
                if row >= first_row:
                    yield json_text.parse_record(row, raw, file.advanced())
                row += 1

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write records as lines."""
        framing = description.get("framing") or {"head": "", "separator": "\n", "ends": True}
        separator = framing["separator"].encode()
        with create_stream(path, description.get("compression")) as file:
            file.write(framing["head"].encode())
            is_first = True
            for raw in json_text.restored(records, load_images):
                file.write((b"" if is_first else separator) + raw)
                is_first = False
            if framing["ends"] and not is_first:
                file.write(separator)


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
