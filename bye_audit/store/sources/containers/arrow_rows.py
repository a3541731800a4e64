"""What containers of Arrow tables share: rows kept as JSON, and JSON made rows again."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.containers.base import (
    LoadImages,
    SourceRecord,
    StoredRecord,
    in_groups,
)
from bye_audit.store.sources.conversation import BadRecordError, ImageReference

_ROW_GROUP_ROWS = 100
_SHA256, _BASE64, _ARROW = "$sha256", "$base64", "$arrow"


class ArrowRows:
    """How formats whose records are rows of a table keep a row and read it back."""

    def stored_raw(
        self, record: SourceRecord, references: list[ImageReference], digests: list[str]
    ) -> bytes:
        """Render the row as JSON; bytes become digests of images, or base64."""
        del references
        known = set(digests)
        return json.dumps(_render(record.value, known), ensure_ascii=False, allow_nan=False).encode(
            errors="surrogatepass"
        )

    def value_of(self, raw: bytes, description: dict[str, Any]) -> object:
        """Parse a stored row; bytes stay the text that stands for them."""
        del description
        value: object = json.loads(raw, object_hook=_stand_in)
        return value


def schema_to_text(schema: pa.Schema) -> str:
    """Write a schema with its metadata, to be kept with the source."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """Undo `schema_to_text`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def read_rows(batch: pa.RecordBatch) -> list[tuple[object, BadRecordError | None]]:
    """Turn a batch into Python rows; one whose text is no UTF-8 has a fault."""
    try:
        return [(value, None) for value in _values(batch)]
    except UnicodeDecodeError:
        if batch.num_rows > 1:
            # One bad text must not cost the rows around it.
            return [read_rows(batch.slice(i, 1))[0] for i in range(batch.num_rows)]
        fault = BadRecordError(QuarantineCode.BAD_ROW, "a text of the row is not UTF-8")
        return [({_ARROW: _to_text(batch)}, fault)]


def _values(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Turn a batch into Python rows; columns JSON has no words for travel as Arrow bytes."""
    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if _is_plain(field.type):
            columns[field.name] = column.to_pylist()
        else:
            columns[field.name] = [_as_arrow(field, column, i) for i in range(batch.num_rows)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _as_arrow(field: pa.Field, column: pa.Array, index: int) -> dict[str, str]:
    row = pa.record_batch([column.slice(index, 1)], schema=pa.schema([field]))
    return {_ARROW: _to_text(row)}


def _to_text(batch: pa.RecordBatch) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue().to_pybytes()).decode()


def _from_text(text: str) -> pa.Table:
    return pa.ipc.open_stream(base64.b64decode(text)).read_all()


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _render(value: Any, known: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _render(item, known) for name, item in value.items()}
    if isinstance(value, list):
        return [_render(item, known) for item in value]
    if isinstance(value, bytes):
        digest = hashlib.sha256(value).hexdigest()
        if digest in known:
            return {_SHA256: digest}
        return {_BASE64: base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _stand_in(value: dict[str, Any]) -> Any:
    """Give rendered bytes some bytes again, so that the row reads as what it was."""
    return b"-" if value.keys() <= {_SHA256, _BASE64} and len(value) == 1 else value


def revived(
    records: Iterable[StoredRecord], schema: pa.Schema, load_images: LoadImages
) -> Iterator[pa.Table]:
    """Make tables of stored records, each as large as a row group with images should be."""
    for group in in_groups(records, _ROW_GROUP_ROWS):
        images = load_images([digest for record in group for digest in record.images])
        yield _revive_rows([record.raw for record in group], schema, images)


def _revive_rows(raws: list[bytes], schema: pa.Schema, images: dict[str, bytes]) -> pa.Table:
    """Make rows of their stored forms; those that are no text travel whole."""
    stored = [json.loads(raw) for raw in raws]
    whole = [_from_text(row[_ARROW]) if row.keys() == {_ARROW} else None for row in stored]
    if not any(whole):
        rows = [_revive_row(row, schema, images) for row in stored]
        return pa.Table.from_pylist(rows, schema=schema)
    return pa.concat_tables(
        pa.Table.from_pylist([_revive_row(row, schema, images)], schema=schema)
        if table is None
        else table.cast(schema)
        for row, table in zip(stored, whole, strict=True)
    )


def _revive_row(row: Any, schema: pa.Schema, images: dict[str, bytes]) -> dict[str, Any]:
    return {field.name: _revive(row[field.name], field.type, images) for field in schema}


def _revive(value: Any, kind: pa.DataType, images: dict[str, bytes]) -> Any:
    if value is None:
        return None
    if not _is_plain(kind):
        return _from_text(value[_ARROW]).column(0)[0]
    if pa.types.is_struct(kind):
        return {field.name: _revive(value[field.name], field.type, images) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_revive(item, kind.value_type, images) for item in value]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return images[value[_SHA256]] if _SHA256 in value else base64.b64decode(value[_BASE64])
    return float(value) if pa.types.is_floating(kind) else value
