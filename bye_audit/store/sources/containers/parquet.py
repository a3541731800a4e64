"""Hugging Face Parquet: images as ``struct<bytes, path>``, one or a list, beside the messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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

_READ_ROWS = 256


class ParquetRows(ArrowRows):
    """A Parquet file with image and conversation columns."""

    name = "parquet"
    title = "Parquet"
    unit = "samples"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the magic bytes."""
        return opening.startswith(b"PAR1")

    def describe(self, path: Path) -> dict[str, Any]:
        """Find the number of rows and the columns' types.

        Raises
        ------
        SourceFormatError
            If it is no Parquet file or has no usable columns.
        """
        file = _open(path)
        schema = file.schema_arrow
        return {
            "total": file.metadata.num_rows,
            "arrow_schema": schema_to_text(schema),
        }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read rows batch by batch, skipping whole row groups before ``first_row``."""
        file = _open(path)
        row, groups = 0, list(range(file.metadata.num_row_groups))
        while groups and row + file.metadata.row_group(groups[0]).num_rows <= first_row:
            row += file.metadata.row_group(groups.pop(0)).num_rows
        batches = file.iter_batches(batch_size=_READ_ROWS, row_groups=groups)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(path, "Parquet", error) from error
            if batch is None:
                return
            for value, fault in read_rows(batch):
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
        """Write rows under the schema of their source."""
        schema = schema_from_text(description["arrow_schema"])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in revived(records, schema, load_images):
                writer.write_table(table)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "Parquet", error) from error
