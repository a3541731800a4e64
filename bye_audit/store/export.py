"""The cleaned split and the removed samples as files, all of them or none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bye_audit import schema
from bye_audit.config import DEFAULT_OUTPUTS, OUTPUT_FORMATS
from bye_audit.errors import ConfigError
from bye_audit.progress import SILENT, Progress, Task
from bye_audit.store.border import storage_errors
from bye_audit.store.conversion import CONVERSIONS, KeptSample
from bye_audit.store.image_features import schema_of
from bye_audit.store.source_list import list_sources
from bye_audit.store.sources.containers import containers
from bye_audit.store.sources.containers.base import StoredRecord, in_groups
from bye_audit.store.sources.dialects import find_dialect
from bye_audit.store.sources.identity import name_without_number
from bye_audit.store.sources.images import relative_path
from bye_audit.store.tables import AuditTables, sql_text

_CLEANED, _PARQUET, _REMOVED = "cleaned", "parquet", "removed.parquet"
# Records in their source's format that are not in the cleaned split.
_TAKEN_OUT, _QUARANTINED = "removed", "quarantined"
_WRITTEN = (_CLEANED, _PARQUET, _REMOVED, _TAKEN_OUT, _QUARANTINED, *CONVERSIONS)
_MARKER = ".bye-audit-export"
_BATCH_ROWS = 100
_SHARD_BYTES = 400 << 20
_HASH_CHUNK_BYTES = 1 << 20
_SCORE_COLUMN = re.compile(r"(entropy_|image_mass_)\d+|answer_logp\w*|num_image_tokens")


@dataclass(frozen=True)
class ExportedFile:
    """One written file."""

    path: str
    """Relative to the output folder, with forward slashes."""
    sha256: str
    num_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote."""

    files: list[ExportedFile]
    """Every file with records; image files beside them are counted only."""
    num_kept: int
    num_removed: int
    num_image_files: int


def export_split(
    tables: AuditTables,
    out_dir: str | Path,
    keep_where: str,
    remove_where: str,
    *,
    formats: Sequence[str] = DEFAULT_OUTPUTS,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write the surviving samples in their source's format and as Parquet, and the removed ones.

    Everything is written beside ``out_dir`` first and then moved into place, so that a killed or
    failed export leaves the last finished one. Writing the same split twice gives the same bytes.

    Parameters
    ----------
    tables
        The audit directory.
    out_dir
        Gets ``cleaned/`` (source format, images at the paths the records name), ``parquet/``
        and ``removed.parquet``; beside them ``removed/`` and ``quarantined/`` with the other
        records in their source's format. What an earlier export wrote there is replaced, nothing
        else.
    keep_where, remove_where
        SQL conditions on samples; together they should hold for each sample once.
    formats
        Which forms of the kept samples to write, of `bye_audit.config.OUTPUT_FORMATS`; all but
        ``source`` have a folder of their name.
    progress
        Where to report.

    Raises
    ------
    ConfigError
        If a format is unknown, or ``out_dir`` holds files this tool did not write.
    StorageError
        If the disk refuses or is full.
    """
    _refuse_unknown_formats(formats)
    out_dir = Path(out_dir)
    _refuse_foreign_files(out_dir)
    num_kept = tables.num_samples(keep_where)
    num_removed = tables.num_samples(remove_where)
    with storage_errors(f"write the split to {out_dir}"):
        out_dir.mkdir(parents=True, exist_ok=True)
        # Always the same name, so that what a killed export left is cleared by the next one.
        work_dir = out_dir.resolve().with_name(f".{out_dir.resolve().name}.partial")
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir()
    export = _Export(tables, work_dir, keep_where)
    total = num_kept * len(formats) + num_removed * (1 + ("source" in formats))
    try:
        with (
            storage_errors(f"write the split to {out_dir}"),
            progress.task("write the split", total) as task,
        ):
            if "source" in formats:
                export.write_sources(remove_where, task)
            if "parquet" in formats:
                export.write_parquet(task)
            for name in CONVERSIONS.keys() & set(formats):
                export.write_converted(name, task)
            export.write_removed(remove_where, task)
            files = export.finish()
            _move_into_place(work_dir, out_dir)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    return ExportResult(files, num_kept, num_removed, export.num_image_files)


class _Export:
    """The writing of one split into a folder of its own."""

    def __init__(self, tables: AuditTables, folder: Path, keep_where: str) -> None:
        self._tables = tables
        self._folder = folder
        self._keep_where = keep_where
        self._written: list[tuple[Path, int]] = []
        self.num_image_files = 0

    def write_sources(self, remove_where: str, task: Task) -> None:
        """Write each source's records under its own file name, in its own format.

        What is removed or quarantined goes to folders of its own, where there is any.
        """
        sources = list_sources(self._tables)
        folders = _place_sources(sources)
        for name, entry in sources.items():
            of_source = f"source = {sql_text(name)}"
            path = Path(folders[name]) / _file_name(name)
            reserved = {
                _file_name(other).casefold() for other in sources if folders[other] == folders[name]
            }
            folder = (self._folder / _CLEANED / path).parent
            kept = self._records(f"({self._keep_where}) AND {of_source}", task)
            kept = self._with_image_files(kept, entry, folder, reserved)
            self._write_source(Path(_CLEANED, path), entry, kept)
            removed = f"({remove_where}) AND {of_source}"
            if self._tables.num_samples(removed):
                self._write_source(Path(_TAKEN_OUT, path), entry, self._records(removed, task))
            if self._tables.num_quarantined(of_source):
                broken = self._tables.scan_quarantine(["raw"], of_source, _BATCH_ROWS)
                self._write_source(
                    Path(_QUARANTINED, path),
                    entry,
                    (StoredRecord(raw, []) for each in broken for raw in each["raw"].to_pylist()),
                )

    def _write_source(
        self, path: Path, entry: dict[str, Any], records: Iterator[StoredRecord]
    ) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        counted = _Counted(records)
        container = containers()[entry["container"]]
        container.write(target, counted, entry["description"], self._tables.load_images)
        self._written.append((target, counted.count))

    def _records(self, where: str, task: Task) -> Iterator[StoredRecord]:
        for batch in self._tables.scan_samples(["raw", "images"], where, _BATCH_ROWS):
            for row in batch.to_pylist():
                yield StoredRecord(row["raw"], row["images"])
            task.advance(batch.num_rows)

    def _with_image_files(
        self,
        records: Iterator[StoredRecord],
        entry: dict[str, Any],
        folder: Path,
        reserved: set[str],
    ) -> Iterator[StoredRecord]:
        """Put the images beside the records that name them, as the records go by."""
        for group in in_groups(records, _BATCH_ROWS):
            self._write_image_files(group, entry, folder, reserved)
            yield from group

    def _write_image_files(
        self, records: list[StoredRecord], entry: dict[str, Any], folder: Path, reserved: set[str]
    ) -> None:
        """Put images where the records say they are, relative to the records' file."""
        container = containers()[entry["container"]]
        dialect = find_dialect(entry["format"], entry["options"])
        targets: dict[Path, str] = {}
        for record in records:
            if not record.images:
                continue
            conversation = dialect.read(container.value_of(record.raw, entry["description"]))
            for reference, digest in zip(conversation.images, record.images, strict=True):
                if reference.content is not None or reference.text is None:
                    continue
                relative = relative_path(reference.text)
                # Absolute paths stay what they were; stand-ins for data: URLs are no paths.
                if relative is None or relative.partition("/")[0].casefold() in reserved:
                    continue
                if not (folder / relative).exists():
                    targets[folder / relative] = digest
        images = self._tables.load_images(list(targets.values()))
        for target, digest in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(images[digest])
            self.num_image_files += 1

    def write_parquet(self, task: Task) -> None:
        """Write the survivors as shards that ``datasets`` opens with real image features."""
        (self._folder / _PARQUET).mkdir()
        for split in self._splits():
            shards = self._write_shards(split, task)
            for number, (path, num_rows) in enumerate(shards):
                name = f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
                self._written.append((path.rename(path.with_name(name)), num_rows))

    def write_converted(self, name: str, task: Task) -> None:
        """Write the survivors in another format than theirs."""
        folder = self._folder / name
        folder.mkdir()
        for split in self._splits():
            self._written += CONVERSIONS[name](folder, split, self._kept_samples(split, task))

    def _kept_samples(self, split: str, task: Task) -> Iterator[KeptSample]:
        where = f"({self._keep_where}) AND split = {sql_text(split)}"
        columns = ["sample_id", "messages", "images"]
        for batch in self._tables.scan_samples(columns, where, _BATCH_ROWS):
            rows = batch.to_pylist()
            images = self._tables.load_images([d for row in rows for d in row["images"]])
            for row in rows:
                found = [(digest, images[digest]) for digest in row["images"]]
                yield KeptSample(row["sample_id"], row["messages"], found)
            task.advance(batch.num_rows)

    def _splits(self) -> list[str]:
        splits = {entry["split"] for entry in list_sources(self._tables).values()}
        return sorted(splits) or ["train"]

    def _write_shards(self, split: str, task: Task) -> list[tuple[Path, int]]:
        table_schema = schema_of(["sample_id", "images", "messages"])
        where = f"({self._keep_where}) AND split = {sql_text(split)}"
        batches = self._tables.scan_samples(table_schema.names, where, _BATCH_ROWS)
        shards: list[tuple[Path, int]] = []
        batch = next(batches, None)
        while batch is not None or not shards:
            path = self._folder / _PARQUET / f"{split}-{len(shards)}.part"
            num_rows = 0
            with pq.ParquetWriter(path, table_schema, compression="zstd") as writer:
                while batch is not None:
                    writer.write_table(self._with_images(batch, table_schema))
                    num_rows += batch.num_rows
                    task.advance(batch.num_rows)
                    batch = next(batches, None)
                    if path.stat().st_size >= _SHARD_BYTES:
                        break
            shards.append((path, num_rows))
        return shards

    def write_removed(self, where: str, task: Task) -> None:
        """Write what the filter took out, with everything that speaks for it."""
        present = self._tables.sample_columns()
        extra = [name for name in schema.VERDICT_COLUMNS if name in present]
        extra += [name for name in present if _SCORE_COLUMN.fullmatch(name)]
        columns = ["sample_id", "source", "source_row", "source_id", "messages", "images", *extra]
        fields = self._tables.dataset(schema.SAMPLES).schema
        table_schema = schema_of(columns, fields)
        path = self._folder / _REMOVED
        num_rows = 0
        with pq.ParquetWriter(path, table_schema, compression="zstd") as writer:
            for batch in self._tables.scan_samples(columns, where, _BATCH_ROWS):
                writer.write_table(self._with_images(batch, table_schema))
                num_rows += batch.num_rows
                task.advance(batch.num_rows)
        self._written.append((path, num_rows))

    def _with_images(self, batch: pa.RecordBatch, table_schema: pa.Schema) -> pa.Table:
        """Put each image's bytes in the place of its digest."""
        rows = batch.to_pylist()
        images = self._tables.load_images([d for row in rows for d in row["images"]])
        for row in rows:
            row["images"] = [{"bytes": images[d], "path": None} for d in row["images"]]
        return pa.Table.from_pylist(rows, schema=table_schema)

    def finish(self) -> list[ExportedFile]:
        """Force the files to disk and describe them."""
        files = []
        for path, num_rows in self._written:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(_HASH_CHUNK_BYTES):
                    digest.update(chunk)
                os.fsync(file.fileno())
                num_bytes = file.tell()
            relative = path.relative_to(self._folder).as_posix()
            files.append(ExportedFile(relative, digest.hexdigest(), num_bytes, num_rows))
        return files


class _Counted:
    """Counts records on their way to the writer."""

    def __init__(self, records: Iterator[StoredRecord]) -> None:
        self._records = records
        self.count = 0

    def __iter__(self) -> Iterator[StoredRecord]:
        for record in self._records:
            self.count += 1
            yield record


def _place_sources(sources: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Choose a folder for each source; only those that share image root and no name share one."""
    roots = {entry["root_digest"] for entry in sources.values()}
    names = [_file_name(name).casefold() for name in sources]
    if len(roots) <= 1 and len(set(names)) == len(names):
        return dict.fromkeys(sources, ".")
    return {
        name: f"{number + 1:02d}-{Path(_file_name(name)).stem}"
        for number, name in enumerate(sources)
    }


def _file_name(source: str) -> str:
    return name_without_number(source).rpartition("/")[2]


def _refuse_unknown_formats(formats: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in OUTPUT_FORMATS]
    if unknown:
        raise ConfigError(
            f"There is no output format {unknown[0]!r}.",
            hint=f"Use one of {', '.join(OUTPUT_FORMATS)}.",
        )


def _refuse_foreign_files(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file.", hint="Name a folder with --out.")
    if (out_dir / "samples.lance").exists():
        raise ConfigError(
            f"{out_dir} is an audit directory.", hint="Name another folder with --out."
        )
    if (out_dir / _MARKER).exists():
        return
    for name in _WRITTEN:
        if (out_dir / name).exists():
            raise ConfigError(
                f"{out_dir} holds a {name} that bye-audit did not write.",
                hint="Name another folder with --out.",
            )


def _move_into_place(work_dir: Path, out_dir: Path) -> None:
    """Swap the finished files in; the marker comes first, so that a re-run may replace them."""
    (out_dir / _MARKER).write_text("Written by bye-audit; replaced as a whole.\n", encoding="utf-8")
    old = work_dir / ".old"
    old.mkdir()
    for name in _WRITTEN:
        if (out_dir / name).exists():
            (out_dir / name).rename(old / name)
        with suppress(FileNotFoundError):
            (work_dir / name).rename(out_dir / name)
