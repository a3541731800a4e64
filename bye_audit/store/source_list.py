"""The sources of an audit: kept with the samples table, so that no row outlives its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bye_audit import schema
from bye_audit.store.border import storage_errors
from bye_audit.store.reading import scan
from bye_audit.store.tables import AuditTables, sql_text

_SOURCE_KEY = "bye_audit.source/"


def list_sources(tables: AuditTables) -> dict[str, dict[str, Any]]:
    """Tell what ingest knows of every source it has begun, in order of ingest."""
    with storage_errors("read the list of sources"):
        metadata = tables.dataset(schema.SAMPLES).metadata
    found = {
        key.removeprefix(_SOURCE_KEY): json.loads(value)
        for key, value in metadata.items()
        if key.startswith(_SOURCE_KEY)
    }
    return dict(sorted(found.items(), key=lambda item: int(item[1]["number"])))


def record_source(tables: AuditTables, name: str, description: Mapping[str, Any]) -> None:
    """Remember a source."""
    text = json.dumps(dict(description), allow_nan=False)
    with storage_errors("write down the source"):
        tables.dataset(schema.SAMPLES).update_metadata({_SOURCE_KEY + name: text})


def next_row(tables: AuditTables, source: str) -> int:
    """Return the first row of a source that has not become a sample for certain."""
    where = f"source = {sql_text(source)}"
    rows = scan(tables.dataset(schema.SAMPLES), ["source_row"], where, 65536)
    return max((max(batch["source_row"].to_pylist()) + 1 for batch in rows), default=0)


def delete_source(tables: AuditTables, name: str) -> None:
    """Forget a source and all its records; images stay, as other sources may share them."""
    where = f"source = {sql_text(name)}"
    tables.delete_quarantine(where)
    with storage_errors("remove a source"):
        dataset = tables.dataset(schema.SAMPLES)
        if dataset.count_rows(filter=where):
            dataset.delete(where)
        dataset.update_metadata({_SOURCE_KEY + name: None})
