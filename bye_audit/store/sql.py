"""SQL over an audit directory: DuckDB, shut off from files, network and settings."""

from __future__ import annotations

import re
import tempfile

import duckdb
import lance
import pyarrow as pa

from bye_audit import schema
from bye_audit.errors import ConfigError, StorageError, TableError
from bye_audit.store.border import brief
from bye_audit.store.tables import AuditTables

VIEWS = ("samples", "images", "quarantine", "runs", "head_scores", "turn_scores", "triggers")
_PICTURE_COLUMNS = {schema.IMAGES: "image", schema.TRIGGERS: "crop"}
_VIEWS_HINT = (
    "Tables are samples, images, quarantine, runs, head_scores and, where they were made, "
    "turn_scores and triggers; `DESCRIBE samples` lists columns."
)
_MEMORY_LIMIT = "2GB"
_MAX_BATCH_ROWS = 65536
# The order counts: nothing can be set any more after the last one.
_HARDENING = (
    "SET enable_external_access = false",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET lock_configuration = true",
)
_EXPLAIN = re.compile(r"^\s*EXPLAIN(\s+ANALYZE)?\b", re.IGNORECASE)
_ENTROPY = re.compile(rf"{schema.ENTROPY_PREFIX}\d+")


class _Widened:
    """A dataset whose lists of float16, which DuckDB does not know, are handed over as float32."""

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._dataset = dataset
        widened = pa.list_(pa.float32())
        self._schema = pa.schema(
            [
                field.with_type(widened) if field.type == pa.list_(pa.float16()) else field
                for field in dataset.schema
            ]
        )

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        batches = (
            pa.RecordBatch.from_arrays(
                [
                    column.cast(field.type)
                    for column, field in zip(batch.columns, self._schema, strict=True)
                ],
                schema=self._schema,
            )
            for batch in self._dataset.to_batches()
        )
        reader = pa.RecordBatchReader.from_batches(self._schema, batches)
        return reader.__arrow_c_stream__(requested_schema)


def run_query(tables: AuditTables, sql: str, max_rows: int | None = None) -> pa.Table:
    """Answer one SELECT over the audit's tables.

    Parameters
    ----------
    tables
        The audit directory; each table is read at its newest version.
    sql
        One statement of DuckDB's SQL. Views: ``samples`` (with the entropies of all layers as
        one list ``entropy`` once there are any), ``images`` (without their bytes),
        ``quarantine``, ``runs``, ``head_scores`` and, where they were made, ``turn_scores`` (all
        turns scored) and ``triggers`` (``confirm``; without the bytes of its pictures).
    max_rows
        Stop after so many rows.

    Raises
    ------
    ConfigError
        If the statement is wrong, is not a single SELECT, or reaches for anything but the views.
    StorageError
        If the tables cannot be read, or the query needs more memory than it may have.
    """
    with tempfile.TemporaryDirectory(prefix="bye-audit-query-") as spill_dir:
        # What does not fit in memory is spilled here; nothing else on the disk can be reached.
        connection = duckdb.connect(
            config={"memory_limit": _MEMORY_LIMIT, "temp_directory": spill_dir}
        )
        try:
            return _answer(connection, tables, sql, max_rows)
        finally:
            connection.close()


def _answer(
    connection: duckdb.DuckDBPyConnection, tables: AuditTables, sql: str, max_rows: int | None
) -> pa.Table:
    try:
        _define_views(connection, tables)
        for setting in _HARDENING:
            connection.execute(setting)
        return _read_rows(connection.sql(_only_reading(connection, sql)), max_rows)
    except duckdb.OutOfMemoryException as error:
        raise StorageError(
            f"The query needs more than {_MEMORY_LIMIT} of memory.",
            hint="Select fewer columns, or group or filter before sorting.",
        ) from error
    except (duckdb.IOException, duckdb.InternalException) as error:
        raise StorageError(
            f"The tables could not be read: {brief(error)}",
            hint="Run the query again; if it fails again, check the audit directory's disk.",
        ) from error
    except duckdb.Error as error:
        raise ConfigError(f"The query failed: {brief(error)}", hint=_VIEWS_HINT) from error
    except (OSError, pa.ArrowException) as error:
        raise TableError(
            f"The tables could not be read: {brief(error)}", hint=_VIEWS_HINT
        ) from error


def _define_views(connection: duckdb.DuckDBPyConnection, tables: AuditTables) -> None:
    for name in VIEWS:
        if name in schema.OPTIONAL_TABLES and not tables.has_table(name):
            continue
        dataset = tables.dataset(name)
        has_halves = name == schema.HEAD_SCORES
        connection.register(f"_{name}", _Widened(dataset) if has_halves else dataset)
        # Column names come from schema.py alone, never from the data.
        hidden = _PICTURE_COLUMNS.get(name)
        selected = f"* EXCLUDE ({hidden})" if hidden else "*"
        entropies = [column for column in dataset.schema.names if _ENTROPY.fullmatch(column)]
        if name == schema.SAMPLES and entropies:
            selected += f", list_value({', '.join(entropies)}) AS entropy"
        connection.execute(f"CREATE VIEW {name} AS SELECT {selected} FROM _{name}")  # noqa: S608


def _only_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise ConfigError(
            f"A query is one statement, these are {len(statements)}.", hint="Send them one by one."
        )
    kind = statements[0].type.name
    if kind == "EXPLAIN":
        # EXPLAIN ANALYZE runs what it explains, so that has to be a SELECT too.
        explained = connection.extract_statements(_EXPLAIN.sub("", sql))
        kind = explained[0].type.name if len(explained) == 1 else kind
    if kind != "SELECT":
        raise ConfigError(
            f"A query can only read; this is {kind}.", hint="Begin it with SELECT or WITH."
        )
    return statements[0]


def _read_rows(result: duckdb.DuckDBPyRelation, max_rows: int | None) -> pa.Table:
    reader = result.to_arrow_reader(_MAX_BATCH_ROWS)
    batches, left = [], max_rows
    for batch in reader:
        if left is not None:
            batch = batch.slice(0, left)
            left -= batch.num_rows
        batches.append(batch)
        if left == 0:
            break
    return pa.Table.from_batches(batches, schema=reader.schema)
