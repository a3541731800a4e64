"""Arrow files as ``save_to_disk`` of ``datasets`` writes them, with two JSON files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from bye_audit.store.sources.containers.arrow_rows import (
    ArrowRows,
    read_rows,
    revived,
    schema_from_text,
    schema_to_text,
)
from bye_audit.store.sources.containers.base import (
    LoadImages,
    SourceRecord,
    StoredRecord,
    unreadable,
)

_STREAM, _FILE = b"\xff\xff\xff\xff", b"ARROW1"
_READ_ROWS = 64
# Without these the folder is none that `load_from_disk` opens.
_BESIDE = ("state.json", "dataset_info.json")
_MAX_BESIDE_BYTES = 4 << 20


class ArrowStream(ArrowRows):
    """Record batches one after the other."""

    name = "arrow"
    title = "Arrow, as datasets saves it"
    unit = "samples"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the mark before the schema."""
        return opening.startswith((_STREAM, _FILE)) and path.is_file()

    def describe(self, path: Path) -> dict[str, Any]:
        """Find the number of rows, the columns' types and what lies beside the file.

        Raises
        ------
        SourceFormatError
            If it is no Arrow file, or breaks off.
        """
        with _batches(path) as (schema, batches):
            # Only their sizes are read: the file is mapped.
            total = sum(batch.num_rows for batch in batches)
            return {
                "total": total,
                "arrow_schema": schema_to_text(schema),
                "beside": dict(_read_beside(path)),
            }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read rows batch by batch."""
        row = 0
        with _batches(path) as (_, batches):
            for batch in batches:
                if row + batch.num_rows <= first_row:
                    row += batch.num_rows
                    continue
                for start in range(0, batch.num_rows, _READ_ROWS):
                    for value, fault in read_rows(batch.slice(start, _READ_ROWS)):
                        if row >= first_row:
                            yield SourceRecord(row, b"", value, fault, 1)
                        row += 1

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write rows under the schema of their source, and what lay beside it."""
        schema = schema_from_text(description["arrow_schema"])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for table in revived(records, schema, load_images):
                writer.write_table(table)
        for name, text in description["beside"].items():
            path.with_name(name).write_text(text, encoding="utf-8")


@contextmanager
def _batches(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(len(_FILE)) == _FILE:
                file = pa.ipc.open_file(source)
                yield file.schema, map(file.get_batch, range(file.num_record_batches))
            else:
                source.seek(0)
                stream = pa.ipc.open_stream(source)
                yield stream.schema, iter(stream)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "Arrow", error) from error


def _read_beside(path: Path) -> Iterator[tuple[str, str]]:
    for name in _BESIDE:
        beside = path.with_name(name)
        if beside.is_file() and beside.stat().st_size <= _MAX_BESIDE_BYTES:
            yield name, beside.read_text("utf-8", errors="replace")
