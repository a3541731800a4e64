"""What containers of text share: records without the images inside them, and JSON under limits."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.containers.base import (
    LoadImages,
    SourceRecord,
    StoredRecord,
    in_groups,
)
from bye_audit.store.sources.containers.streams import create_stream
from bye_audit.store.sources.conversation import BadRecordError, ImageReference
from bye_audit.store.sources.images import split_data_url

_GROUP_RECORDS = 64
JSON_SPACE = b" \t\r\n"
# JSON text cannot hold a NUL, so a stand-in is never mistaken for the dataset's own text.
_STAND_IN = re.compile(rb"\x00([0-9a-f]{64})\x00")


def parse_record(row: int, raw: bytes, progress: int) -> SourceRecord:
    """Parse one record's text; a fault is kept with it, not raised."""
    try:
        return SourceRecord(row, raw, json.loads(raw), None, progress)
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at character {error.pos}"
    except RecursionError:
        detail = "it is nested too deeply"
    except ValueError as error:
        detail = str(error)[:200]
    return SourceRecord(
        row, raw, None, BadRecordError(QuarantineCode.BAD_JSON, f"the record: {detail}"), progress
    )


def without_images(raw: bytes, references: list[ImageReference], digests: list[str]) -> bytes:
    """Put digests in place of base64 images wherever that can be undone byte for byte."""
    for reference, digest in zip(references, digests, strict=True):
        data = split_data_url(reference.text or "")
        if data is None:
            continue
        payload = data[1].encode()
        if _is_canonical(payload):
            raw = raw.replace(payload, b"\0" + digest.encode() + b"\0")
    return raw


def restored(records: Iterable[StoredRecord], load_images: LoadImages) -> Iterator[bytes]:
    """Undo `without_images`: each record as it stood in its source, byte for byte."""
    for group in in_groups(records, _GROUP_RECORDS):
        images = load_images([digest for record in group for digest in record.images])

        def payload(match: re.Match[bytes], images: dict[str, bytes] = images) -> bytes:
            content = images.get(match[1].decode())
            # What is quarantined may be no JSON and hold anything.
            return match[0] if content is None else base64.b64encode(content)

        for record in group:
            yield _STAND_IN.sub(payload, record.raw)


def _is_canonical(payload: bytes) -> bool:
    """Tell whether encoding the decoded bytes gives the same text again."""
    try:
        return base64.b64encode(base64.b64decode(payload, validate=True)) == payload
    except (binascii.Error, ValueError):
        return False


class TextRecords:
    """How formats whose records are text keep a record, and write records back as they were."""

    separator = b""
    """What stands between two records and is part of neither."""

    def stored_raw(
        self, record: SourceRecord, references: list[ImageReference], digests: list[str]
    ) -> bytes:
        """Keep the record's own bytes, images inside them left out."""
        return without_images(record.raw, references, digests)

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write records, with all that each has around it, between the source's head and tail."""
        with create_stream(path, description["compression"]) as file:
            file.write(description["head"].encode(errors="surrogateescape"))
            for number, raw in enumerate(restored(records, load_images)):
                file.write(self.separator * (number > 0) + raw)
            file.write(description["tail"].encode())


class JsonRecords(TextRecords):
    """How formats whose records are JSON text read a stored record."""

    def value_of(self, raw: bytes, description: dict[str, Any]) -> object:
        """Parse a stored record, in which stand-ins may be."""
        del description
        value: object = json.loads(raw, strict=False)
        return value
