"""Reading Lance tables in order and in batches, and knowing a folder that holds none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import lance
import pyarrow as pa

from bye_audit import schema
from bye_audit.errors import TableError
from bye_audit.store.border import missing_column_error, storage_errors


def sql_text(value: str) -> str:
    """Quote a text for use inside a ``where``."""
    return "'" + value.replace("'", "''") + "'"


def scan(
    dataset: lance.LanceDataset, columns: Sequence[str], where: str | None, batch_size: int
) -> Iterator[pa.RecordBatch]:
    """Read columns in the table's own order, from one fixed version, without empty batches."""
    with storage_errors("read a table"):
        batches = iter(
            dataset.scanner(
                columns=list(columns), filter=where, batch_size=batch_size, scan_in_order=True
            ).to_batches()
        )
    while True:
        # Not around the yield: what the caller raises is not storage's fault.
        with storage_errors("read a table"):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield batch


def check_columns(dataset: lance.LanceDataset, columns: Sequence[str]) -> None:
    """Refuse columns that no stage has made yet."""
    names = set(dataset.schema.names)
    for column in columns:
        if column not in names:
            raise missing_column_error(column)


def refuse_foreign_folder(uri: str) -> None:
    """Refuse to make tables among files that are none of ours."""
    if "://" in uri:
        return
    path = Path(uri)
    if path.exists() and not path.is_dir():
        raise TableError(f"{uri} is a file, not an audit directory.", hint="Name a new folder.")
    own = {f"{name}.lance" for name in schema.TABLES} | {"adapters"}
    if path.is_dir():
        names = [entry.name for entry in path.iterdir()]
        if names and not own.intersection(names):
            raise TableError(
                f"{uri} holds files but no audit tables.",
                hint="Name a new folder for the audit; the sources come after it.",
            )
