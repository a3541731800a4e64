"""Answers of ``query`` in the form that was asked for."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit.cli.output import as_plain, format_table
from bye_audit.cli.text import count
from bye_audit.errors import ConfigError
from bye_audit.report.text import escape_controls

if TYPE_CHECKING:
    import pyarrow as pa


def write_answer(answer: pa.Table, output_format: str, out_path: Path | None) -> None:
    """Write a query's answer to a file or to stdout.

    Parameters
    ----------
    answer
        The rows.
    output_format
        ``table``, ``csv``, ``json`` (one object a line) or ``parquet``.
    out_path
        File to write; stdout when None.

    Raises
    ------
    ConfigError
        If Parquet was asked for and stdout is a terminal.
    StorageError
        If the file cannot be written.
    """
    if output_format == "parquet":
        if out_path is None and sys.stdout.isatty():
            raise ConfigError("Parquet is not for a terminal.", hint="add --out FILE.parquet")
        _deliver(_encode_parquet(answer), out_path)
        return
    if output_format == "table":
        text = "\n".join(_table_lines(answer)) + "\n"
    elif output_format == "csv":
        text = _encode_csv(answer)
    else:
        text = "".join(
            json.dumps({key: _readable(value) for key, value in row.items()}) + "\n"
            for row in answer.to_pylist()
        )
    _deliver(text.encode(), out_path)


def _table_lines(answer: pa.Table) -> list[str]:
    width = shutil.get_terminal_size((120, 40)).columns
    rows = [list(row.values()) for row in answer.to_pylist()]
    return [*format_table(answer.column_names, rows, width), f"({count(len(rows), 'row')})"]


def _encode_csv(answer: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([escape_controls(name) for name in answer.column_names])
    for row in answer.to_pylist():
        writer.writerow([_csv_cell(value) for value in row.values()])
    return buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    plain = _readable(value)
    if isinstance(plain, str):
        return escape_controls(plain)
    return json.dumps(plain) if isinstance(plain, list | dict) else plain


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and value != value:
        return None
    return as_plain(value)


def _encode_parquet(answer: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(answer, sink, compression="zstd")
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _deliver(data: bytes, out_path: Path | None) -> None:
    if out_path is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    from bye_audit.store.whole_files import write_whole

    write_whole(out_path, data)
