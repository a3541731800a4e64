"""CSV and TSV: one record a row, named by the first; what is in quotes may hold line breaks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bye_audit.errors import SourceFormatError
from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.containers.base import SourceRecord
from bye_audit.store.sources.containers.json_text import TextRecords
from bye_audit.store.sources.containers.streams import (
    SourceStream,
    open_stream,
    read_blank_end,
    read_compression,
)
from bye_audit.store.sources.conversation import BadRecordError

_BOM = "\ufeff"
_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",\t;|"
_MAX_ROW_BYTES = 64 << 20
# The module's own limit of 131,072 characters is below many an image in base64.
csv.field_size_limit(_MAX_ROW_BYTES)


class Delimited(TextRecords):
    """Rows of cells, with the columns' names in the first."""

    name = "csv"
    title = "CSV or TSV"
    unit = "bytes"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the name: any text could be a table of one column."""
        return path.is_file() and any(suffix.lower() in _SUFFIXES for suffix in path.suffixes)

    def describe(self, path: Path) -> dict[str, Any]:
        """Find the columns' names, what separates them, and blank lines at the end.

        Raises
        ------
        SourceFormatError
            If the first row names no columns, or two alike.
        """
        delimiter, head, names = _read_head(path)
        return {
            "total": path.stat().st_size,
            "delimiter": delimiter,
            "columns": names,
            "head": head.decode(errors="surrogateescape"),
            "tail": read_blank_end(path, "\r\n"),
            "compression": read_compression(path),
        }

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read rows one by one; blank lines are no records."""
        delimiter, _, names = _read_head(path)
        with open_stream(path) as file:
            rows = _Rows(file, delimiter, path)
            next(rows)
            for row, (raw, cells) in enumerate(rows):
                if row >= first_row:
                    fault = _find_fault(raw, cells, names)
                    value = _as_record(cells, names) if fault is None else None
                    yield SourceRecord(row, raw, value, fault, file.advanced())

    def value_of(self, raw: bytes, description: dict[str, Any]) -> object:
        """Parse a stored row."""
        # Only \n ends a line here, as in the file; text has many more signs that might.
        lines = io.StringIO(raw.decode(), newline="\n")
        cells = next(row for row in csv.reader(lines, delimiter=description["delimiter"]) if row)
        return _as_record(cells, description["columns"])


class _Rows:
    """The rows of a table, each with its own bytes; blank lines before a row belong to it."""

    def __init__(self, file: SourceStream, delimiter: str, path: Path) -> None:
        self._file = file
        self._path = path
        self._taken: list[bytes] = []
        self._num_taken = 0
        self._is_first = True
        self._cells = csv.reader(self._lines(), delimiter=delimiter)

    def __iter__(self) -> Iterator[tuple[bytes, list[str]]]:
        return self

    def __next__(self) -> tuple[bytes, list[str]]:
        try:
            cells = next(row for row in self._cells if row)
        except csv.Error as error:
            raise self._broken(str(error)) from error
        raw = b"".join(self._taken)
        self._taken, self._num_taken = [], 0
        return raw, cells

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_ROW_BYTES):
            self._taken.append(line)
            self._num_taken += len(line)
            if self._num_taken >= _MAX_ROW_BYTES:
                raise self._broken(f"a row has more than {_MAX_ROW_BYTES} bytes")
            text = line.decode(errors="surrogateescape")
            yield text.removeprefix(_BOM) if self._is_first else text
            self._is_first = False

    def _broken(self, what: str) -> SourceFormatError:
        return SourceFormatError(
            f"{self._path} is not a readable table: {what}.",
            hint="Check its quotes and line breaks; nothing of it was kept.",
        )


def _read_head(path: Path) -> tuple[str, bytes, list[str]]:
    """Give what separates cells, the first row's own bytes and the names of columns in it."""
    delimiter = _find_delimiter(path)
    with open_stream(path) as file:
        head, names = next(_Rows(file, delimiter, path), (b"", []))
    named = [name for name in names if name]
    if len(named) < 2 or len(set(named)) < len(named):
        raise SourceFormatError(
            f"The first row of {path} does not name two or more columns, all differently.",
            hint="Put the columns' names there, such as image, question and answer.",
        )
    return delimiter, head, names


def _find_delimiter(path: Path) -> str:
    """Give the sign that the first line has most of; of equals the usual one."""
    with open_stream(path) as file:
        first = file.readline(_MAX_ROW_BYTES).decode(errors="surrogateescape")
    return max(_DELIMITERS, key=first.count)


def _find_fault(raw: bytes, cells: list[str], names: list[str]) -> BadRecordError | None:
    if len(cells) != len(names):
        detail = f"the row has {len(cells)} cells for {len(names)} columns"
    elif b"\0" in raw:
        detail = "the row has a NUL"
    elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        detail = "the row is not UTF-8"
    else:
        return None
    return BadRecordError(QuarantineCode.BAD_ROW, detail)


def _as_record(cells: list[str], names: list[str]) -> dict[str, str | None]:
    """Name the cells; an empty one holds nothing."""
    return {name: cell or None for name, cell in zip(names, cells, strict=True) if name}
