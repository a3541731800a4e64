"""Parquet schemas with the metadata by which ``datasets`` knows columns of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from bye_audit import schema

_IMAGE_TYPE = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_PART_TYPE = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
_TEXT: dict[str, Any] = {"dtype": "string", "_type": "Value"}
_IMAGES: dict[str, Any] = {"feature": {"_type": "Image"}, "_type": "List"}
_PARTS: dict[str, Any] = {"feature": {"type": _TEXT, "text": _TEXT}, "_type": "List"}
# Arrow's names, and those of `datasets`.
_DTYPES = {"float": "float32", "double": "float64"}


def _list_of_turns(content: dict[str, Any]) -> dict[str, Any]:
    return {"feature": {"role": _TEXT, "content": content}, "_type": "List"}


def schema_of(columns: Sequence[str], stored: pa.Schema | None = None) -> pa.Schema:
    """Build the schema of some columns of samples, with image bytes in the place of digests.

    Parameters
    ----------
    columns
        Names of columns.
    stored
        Their types in the table; None: text.
    """
    known = {
        "images": (_IMAGE_TYPE, _IMAGES),
        "messages": (pa.list_(schema.message_type()), _list_of_turns(_TEXT)),
    }
    found: dict[str, tuple[pa.DataType, dict[str, Any]]] = {}
    for name in columns:
        kind = pa.string() if stored is None else stored.field(name).type
        own = (kind, {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"})
        found[name] = known.get(name, own)
    return _with_metadata(found)


def trl_schema() -> pa.Schema:
    """Build the schema of ``images`` and of ``messages`` whose contents are lists of parts."""
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", _PART_TYPE)]))
    return _with_metadata(
        {"images": (_IMAGE_TYPE, _IMAGES), "messages": (turns, _list_of_turns(_PARTS))}
    )


def _with_metadata(columns: dict[str, tuple[pa.DataType, dict[str, Any]]]) -> pa.Schema:
    features = {name: feature for name, (_, feature) in columns.items()}
    return pa.schema(
        [(name, kind) for name, (kind, _) in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
