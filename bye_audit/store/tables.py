"""The audit directory: one LanceDB database and the adapters beside its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.errors import SchemaMismatchError, StorageError, TableError
from bye_audit.store.border import missing_column_error, storage_errors
from bye_audit.store.digest import digest_of_samples
from bye_audit.store.locking import sole_writer
from bye_audit.store.reading import check_columns, refuse_foreign_folder, scan, sql_text
from bye_audit.store.runs import Run, finished_run, new_run_id, row_of_run, run_of_row

__all__ = ["AuditTables", "Run", "new_run_id", "sql_text"]

_SCHEMAS = {
    # Samples come last: where they exist, the other tables exist too, whenever create was killed.
    schema.IMAGES: schema.images_schema,
    schema.QUARANTINE: schema.quarantine_schema,
    schema.HEAD_SCORES: schema.head_scores_schema,
    schema.RUNS: schema.runs_schema,
    schema.SAMPLES: schema.samples_schema,
}
_CONFLICT_RETRIES = 50
_INDEX_IMAGES = 20_000
_INGEST_FIRST = "Run `bye-audit ingest AUDIT SOURCE...` first."


class AuditTables:
    """Everything stages read from and write to an audit directory.

    Made by `create` or `open`. Every method sees the newest committed state, so two processes may
    use the same directory; every write is one atomic commit.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    # --- opening -------------------------------------------------------------------------------

    @classmethod
    def create(cls, uri: str | Path) -> AuditTables:
        """Open the audit directory, making it and its tables where they are missing.

        Raises
        ------
        TableError
            If the path is a file or a folder that holds something else.
        SchemaMismatchError
            If a newer version of bye-audit wrote the tables.
        StorageError
            If the directory cannot be written.
        """
        uri = str(uri)
        refuse_foreign_folder(uri)
        with storage_errors(f"create the audit tables in {uri}"):
            database = lancedb.connect(uri)
            present = set(database.list_tables().tables)
            for name, make_schema in _SCHEMAS.items():
                if name not in present:
                    database.create_table(name, schema=make_schema(), exist_ok=True)
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str | Path) -> AuditTables:
        """Open an existing audit directory.

        Raises
        ------
        TableError
            If there is none.
        SchemaMismatchError
            If a newer version of bye-audit wrote the tables.
        """
        tables = cls(str(uri))
        if "://" not in tables.uri and not Path(tables.uri, "samples.lance").is_dir():
            raise TableError(f"{tables.uri} is not an audit directory.", hint=_INGEST_FIRST)
        stored = (tables._dataset(schema.SAMPLES).schema.metadata or {}).get(
            schema.SCHEMA_VERSION_KEY.encode(), b"none"
        )
        if stored != str(schema.SCHEMA_VERSION).encode():
            raise SchemaMismatchError(
                f"{tables.uri} has tables of schema version {stored.decode(errors='replace')}, "
                f"this bye-audit knows version {schema.SCHEMA_VERSION}.",
                hint="Use the bye-audit version that wrote it, or ingest into a new directory.",
            )
        return tables

    def directory(self, name: str) -> Path:
        """Return the folder ``name`` inside the audit directory, made if missing."""
        if "://" in self.uri:
            raise StorageError(
                f"{self.uri} is not on a local disk, so {name} cannot be kept beside its tables.",
                hint="Use a local audit directory for this stage.",
            )
        folder = Path(self.uri, name)
        with storage_errors(f"make the folder {name} in {self.uri}"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sole_writer(self, stage: str) -> AbstractContextManager[None]:
        """Keep a second process from running the same stage on this directory meanwhile."""
        return sole_writer(self.uri, stage)

    def dataset(self, name: str) -> lance.LanceDataset:
        """Return one table as a Lance dataset at its newest version, for reading only."""
        return self._dataset(name)

    def _dataset(self, name: str) -> lance.LanceDataset:
        with storage_errors(f"open the table {name} of {self.uri}"):
            return lance.dataset(f"{self.uri.rstrip('/')}/{name}.lance")

    # --- samples: reading ----------------------------------------------------------------------

    def num_samples(self, where: str | None = None) -> int:
        """Count samples, all or those for which the SQL condition ``where`` holds."""
        with storage_errors("count samples"):
            return int(self._dataset(schema.SAMPLES).count_rows(filter=where))

    def sample_columns(self) -> list[str]:
        """Names of the samples' columns that exist now."""
        return list(self._dataset(schema.SAMPLES).schema.names)

    def column_metadata(self, name: str) -> dict[str, str]:
        """Tell what a samples column says of itself, such as the model an entropy came from."""
        fields = self._dataset(schema.SAMPLES).schema
        if name not in fields.names:
            raise missing_column_error(name)
        return {k.decode(): v.decode() for k, v in (fields.field(name).metadata or {}).items()}

    def read_samples(
        self, columns: Sequence[str], where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        """Read samples' columns, in the order of ingest.

        Raises
        ------
        StageNotRunError
            If a column does not exist yet.
        """
        dataset = self._dataset(schema.SAMPLES)
        check_columns(dataset, columns)
        with storage_errors("read samples"):
            return dataset.to_table(columns=list(columns), filter=where, limit=limit)

    def scan_samples(
        self, columns: Sequence[str], where: str | None = None, batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Read samples' columns in batches, in the order of ingest, from one fixed version."""
        dataset = self._dataset(schema.SAMPLES)
        check_columns(dataset, columns)
        yield from scan(dataset, columns, where, batch_size)

    def take_samples(
        self, rows: Sequence[int] | NDArray[np.int64], columns: Sequence[str], *, version: int
    ) -> pa.Table:
        """Read columns of the samples with these row numbers, in their order, at one version."""
        with storage_errors("read samples"):
            dataset = self._dataset(schema.SAMPLES).checkout_version(version)
            return dataset.take(list(map(int, rows)), columns=list(columns))

    def load_images(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Read the bytes of the images with these sha256 digests.

        Raises
        ------
        TableError
            If an image is not there, which only a damaged audit directory can cause.
        """
        wanted = list(dict.fromkeys(digests))
        if not wanted:
            return {}
        condition = f"sha256 IN ({', '.join(sql_text(digest) for digest in wanted)})"
        with storage_errors("read images"):
            found = self._dataset(schema.IMAGES).to_table(
                columns=["sha256", "image"], filter=condition
            )
        images = dict(zip(found["sha256"].to_pylist(), found["image"].to_pylist(), strict=True))
        missing = [digest for digest in wanted if digest not in images]
        if missing:
            raise TableError(
                f"{self.uri} lacks {len(missing)} images of its samples, first {missing[0]}.",
                hint="The audit directory is damaged: ingest the sources into a new one.",
            )
        return images

    # --- samples: writing ----------------------------------------------------------------------

    def append_samples(self, table: pa.Table) -> None:
        """Append new samples as one commit; columns of later stages stay null."""
        self._append(schema.SAMPLES, table)

    def append_images(self, table: pa.Table) -> None:
        """Append images; the caller sees to it that none is stored twice."""
        self._append(schema.IMAGES, table)

    def append_quarantine(self, table: pa.Table) -> None:
        """Append records that could not become samples."""
        self._append(schema.QUARANTINE, table)

    def _append(self, name: str, table: pa.Table) -> None:
        if table.num_rows == 0:
            return
        with storage_errors(f"write to the table {name} of {self.uri}"):
            lance.write_dataset(table, self._dataset(name), mode="append")

    def add_sample_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add columns of nulls, with their metadata; those already there with this type stay.

        Raises
        ------
        SchemaMismatchError
            If a column of that name has another type.
        """
        dataset = self._dataset(schema.SAMPLES)
        new = []
        for field in fields:
            if field.name not in dataset.schema.names:
                new.append(field)
            elif dataset.schema.field(field.name).type != field.type:
                raise SchemaMismatchError(
                    f"Column {field.name} is {dataset.schema.field(field.name).type}, "
                    f"not {field.type}.",
                    hint="Ingest into a new audit directory.",
                )
        if new:
            with storage_errors("add columns to the samples"):
                dataset.add_columns(pa.schema(new))

    def drop_sample_columns(self, names: Sequence[str]) -> None:
        """Drop columns of later stages; names that are not there are no fault."""
        dataset = self._dataset(schema.SAMPLES)
        known = [name for name in names if name in dataset.schema.names]
        assert not set(known) & set(schema.samples_schema().names), "ingest's columns are kept"
        if known:
            with storage_errors("drop columns of the samples"):
                dataset.drop_columns(known)

    def update_samples(self, table: pa.Table) -> None:
        """Set columns of existing samples, matched by ``sample_id``, as one commit.

        Only the columns given are rewritten, never texts or images; writing the same values
        again changes nothing, so a killed stage may repeat its last batch.

        Raises
        ------
        TableError
            If a ``sample_id`` is not in the table.
        """
        if table.num_rows == 0:
            return
        dataset = self._dataset(schema.SAMPLES)
        check_columns(dataset, table.column_names)
        with storage_errors("write to the samples"):
            stats = (
                dataset.merge_insert("sample_id")
                .when_matched_update_all()
                # Other modes rewrite whole rows, and lancedb's own merge has no such choice.
                .write_mode("rewrite_columns")
                .conflict_retries(_CONFLICT_RETRIES)
                .execute(table)
            )
        if stats["num_updated_rows"] != table.num_rows:
            raise TableError(
                f"Only {stats['num_updated_rows']} of {table.num_rows} samples were found for "
                "an update.",
                hint="The samples changed meanwhile: run the stage again.",
            )

    # --- quarantine, heads, runs ---------------------------------------------------------------

    def num_quarantined(self, where: str | None = None) -> int:
        """Count records that could not become samples."""
        with storage_errors("count quarantined records"):
            return int(self._dataset(schema.QUARANTINE).count_rows(filter=where))

    def scan_quarantine(
        self, columns: Sequence[str], where: str | None, batch_size: int
    ) -> Iterator[pa.RecordBatch]:
        """Read quarantined records' columns in batches, in the order of ingest."""
        yield from scan(self._dataset(schema.QUARANTINE), columns, where, batch_size)

    def quarantine_counts(self, where: str | None = None) -> dict[str, int]:
        """Count quarantined records by code, commonest first."""
        counts: Counter[str] = Counter()
        for batch in scan(self._dataset(schema.QUARANTINE), ["code"], where, 65536):
            counts.update(batch["code"].to_pylist())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def delete_quarantine(self, where: str) -> None:
        """Forget quarantined records, so that their source rows can be read again."""
        if self.num_quarantined(where):
            with storage_errors("clear quarantined records"):
                self._dataset(schema.QUARANTINE).delete(where)

    def append_head_scores(self, table: pa.Table) -> None:
        """Append per-head statistics of one score run."""
        self._append(schema.HEAD_SCORES, table)

    def append_optional(self, name: str, table: pa.Table) -> None:
        """Append to a table of ``schema.OPTIONAL_TABLES``, made where there was none."""
        if table.num_rows == 0:
            return
        with storage_errors(f"write to the table {name} of {self.uri}"):
            fields = schema.OPTIONAL_TABLES[name]()
            lancedb.connect(self.uri).create_table(name, schema=fields, exist_ok=True)
        self._append(name, table)

    def has_table(self, name: str) -> bool:
        """Whether a table is there: some are only made where there is something to put in."""
        with storage_errors(f"list the tables of {self.uri}"):
            return name in lancedb.connect(self.uri).list_tables().tables

    def scan_head_scores(
        self, run_id: str, columns: Sequence[str], batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Read per-head statistics of one score run in batches."""
        dataset = self._dataset(schema.HEAD_SCORES)
        yield from scan(dataset, columns, f"score_run = {sql_text(run_id)}", batch_size)

    def record_run(self, stage: str, record: Mapping[str, Any], run_id: str | None = None) -> Run:
        """Write down that a stage has finished, with what it did.

        Raises
        ------
        ValueError
            If the record holds a NaN or an infinity, which no stage may store.
        """
        run = finished_run(stage, record, run_id)
        self._append(
            schema.RUNS, pa.Table.from_pylist([row_of_run(run)], schema=schema.runs_schema())
        )
        return run

    def runs(self, stage: str | None = None) -> list[Run]:
        """Finished stages in the order they finished, all or one stage's."""
        where = None if stage is None else f"stage = {sql_text(stage)}"
        with storage_errors("read the runs"):
            rows = self._dataset(schema.RUNS).to_table(filter=where).to_pylist()
        return [run_of_row(row) for row in rows]

    def latest_run(self, stage: str) -> Run | None:
        """Return the last finished run of a stage, or None."""
        found = self.runs(stage)
        return found[-1] if found else None

    # --- the whole -----------------------------------------------------------------------------

    def scan_images(self, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        """Read facts about all stored images in batches."""
        yield from scan(self._dataset(schema.IMAGES), columns, None, batch_size)

    def image_digests(self) -> set[str]:
        """Digests of all stored images."""
        digests: set[str] = set()
        for batch in self.scan_images(["sha256"], 65536):
            digests.update(batch["sha256"].to_pylist())
        return digests

    def num_images(self) -> int:
        """Count stored images."""
        with storage_errors("count images"):
            return int(self._dataset(schema.IMAGES).count_rows())

    def content_digest(self) -> str:
        """Sha256 over what was ingested: unchanged by scoring, compaction and clean-up."""
        with storage_errors("read samples"):
            return digest_of_samples(self._dataset(schema.SAMPLES))

    def version(self) -> int:
        """Version of the samples table."""
        return int(self._dataset(schema.SAMPLES).version)

    def compact(self) -> None:
        """Join small fragments of the samples and index images where there are many.

        To be called between stages, never during one.
        """
        samples, images = self._dataset(schema.SAMPLES), self._dataset(schema.IMAGES)
        with storage_errors("compact the samples"):
            if len(samples.get_fragments()) > 1:
                samples.optimize.compact_files()
            if images.count_rows() >= _INDEX_IMAGES:
                images.create_scalar_index("sha256", "BTREE", replace=True)
