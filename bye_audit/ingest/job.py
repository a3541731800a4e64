"""The ingest of one source: read, checked and committed batch by batch, resumed where it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bye_audit import schema
from bye_audit.errors import (
    EmptySourceError,
    InputError,
    InterruptedStageError,
)
from bye_audit.ingest.summary import SourceSummary, ingest_record, summary_of
from bye_audit.progress import Progress
from bye_audit.store.source_list import delete_source, list_sources, next_row, record_source
from bye_audit.store.sources.containers.base import SourceRecord
from bye_audit.store.sources.conversation import (
    BadRecordError,
    Conversation,
    ImageReference,
)
from bye_audit.store.sources.finding import Source
from bye_audit.store.sources.identity import (
    digest_of_path,
    fingerprint,
    hash_file,
    name_without_number,
    typed_name,
)
from bye_audit.store.sources.images import ImageLoader
from bye_audit.store.tables import AuditTables, sql_text

STAGE = "ingest"
_COMMIT_ROWS = 8192
_COMMIT_BYTES = 64 << 20
# Images are fetched side by side for as many records as this at a time.
_FETCHED_ROWS = 256
_FETCHED_BYTES = 16 << 20


@dataclass
class _Pending:
    """Records read and not yet committed."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def num_rows(self) -> int:
        return len(self.samples) + len(self.quarantine)


class SourceJob:
    """The ingest of one source.

    Parameters
    ----------
    tables
        The audit directory.
    source
        What is read, and how.
    split
        Name of the split its samples belong to.
    known_images
        Digests of images stored already.
    """

    def __init__(
        self, tables: AuditTables, source: Source, split: str, known_images: set[str]
    ) -> None:
        self._tables = tables
        self._source = source
        self._path = source.path
        self._split = split
        self._known_images = known_images

    def run(self, progress: Progress) -> SourceSummary:
        """Read what is still to be read of the source."""
        before = fingerprint(self._path)
        sha256 = hash_file(self._path, progress)
        name, entry = self._find_entry(sha256)
        if entry is not None and entry["is_finished"]:
            self._check_same_options(name, entry)
            return summary_of(name, entry, is_new=False)
        description = self._source.container.describe(self._path)
        entry = {
            "number": entry["number"] if entry else len(list_sources(self._tables)),
            "path_digest": digest_of_path(self._path),
            "root_digest": digest_of_path(self._source.image_root),
            "sha256": sha256,
            "num_bytes": before[0],
            "container": self._source.container.name,
            "format": self._source.dialect.name,
            "options": self._source.options,
            "split": self._split,
            "description": description,
            "is_finished": False,
        }
        record_source(self._tables, name, entry)
        try:
            rows_read = self._read(name, description["total"], progress)
            self._check_unchanged(before)
            entry |= self._count(name, rows_read)
        except InputError:
            # Half of a broken file is nobody's dataset.
            delete_source(self._tables, name)
            raise
        record_source(self._tables, name, {**entry, "is_finished": True})
        self._tables.record_run(STAGE, ingest_record(self._tables))
        return summary_of(name, entry, is_new=True)

    def _find_entry(self, sha256: str) -> tuple[str, dict[str, Any] | None]:
        """Find the source's own name in this audit, and what is known of it."""
        sources = list_sources(self._tables)
        path_digest = digest_of_path(self._path)
        typed = typed_name(self._path)
        for name, entry in sources.items():
            same_path = entry["path_digest"] == path_digest
            if entry["sha256"] == sha256 and (same_path or name_without_number(name) == typed):
                return name, entry
            if same_path and not entry["is_finished"]:
                delete_source(self._tables, name)
                return name, None
            if same_path:
                raise InputError(
                    f"{self._path} was ingested before with other content.",
                    hint="Ingest the new content into a new audit directory.",
                )
        number, name = 1, typed
        while name in sources:
            number += 1
            name = f"{typed}#{number}"
        return name, None

    def _check_same_options(self, name: str, entry: dict[str, Any]) -> None:
        if entry["split"] != self._split:
            raise InputError(
                f"{name} was ingested before as split {entry['split']}, not {self._split}.",
                hint="Leave --split as it was, or use a new audit directory.",
            )

    def _check_unchanged(self, before: tuple[int, int]) -> None:
        if fingerprint(self._path) != before:
            raise InputError(
                f"{self._path} changed while it was being read.",
                hint="Run the same command again when nothing writes to it any more.",
            )

    def _read(self, name: str, total: int, progress: Progress) -> int:
        first_row = next_row(self._tables, name)
        # Rows after the last sample are read again, so that none is quarantined twice.
        self._tables.delete_quarantine(f"source = {sql_text(name)} AND source_row >= {first_row}")
        loader = ImageLoader(self._source.image_root, self._known_images, self._path.name)
        pending, rows_read, is_committing, progressed = _Pending(), first_row, False, 0
        try:
            with progress.task(f"ingest {name}", total, self._source.container.unit) as task:
                for record, said in self._understood(first_row, loader):
                    self._take(name, record, said, loader, pending)
                    rows_read = record.row + 1
                    task.advance(record.progress)
                    progressed += record.progress
                    num_bytes = pending.num_bytes + loader.new_bytes
                    if pending.num_rows >= _COMMIT_ROWS or num_bytes >= _COMMIT_BYTES:
                        is_committing = True
                        self._commit(pending, loader)
                        pending, is_committing = _Pending(), False
                # What follows the last record, such as a closing bracket.
                task.advance(max(0, total - progressed))
        except KeyboardInterrupt:
            if not is_committing:
                self._commit(pending, loader)
            raise InterruptedStageError(
                f"Ingest was stopped in {name}; the records read so far are kept.",
                hint="Run the same command again to go on from there.",
            ) from None
        self._commit(pending, loader)
        return rows_read

    def _understood(
        self, first_row: int, loader: ImageLoader
    ) -> Iterator[tuple[SourceRecord, Conversation | BadRecordError]]:
        """Read records and take them apart, a few at a time; their images are fetched together."""
        group: list[tuple[SourceRecord, Conversation | BadRecordError]] = []
        references: list[ImageReference] = []
        num_bytes = 0
        with ThreadPoolExecutor(_count_cores()) as pool:
            for record in self._source.container.records(self._path, first_row):
                said = self._understand(record)
                group.append((record, said))
                if isinstance(said, Conversation):
                    references += said.images
                    num_bytes += sum(map(loader.estimate_bytes, said.images))
                if len(group) >= _FETCHED_ROWS or num_bytes >= _FETCHED_BYTES:
                    loader.fetch(references, pool)
                    yield from group
                    group, references, num_bytes = [], [], 0
            loader.fetch(references, pool)
            yield from group

    def _understand(self, record: SourceRecord) -> Conversation | BadRecordError:
        try:
            return record.fault or self._source.dialect.read(record.value)
        except BadRecordError as fault:
            return fault

    def _take(
        self,
        name: str,
        record: SourceRecord,
        said: Conversation | BadRecordError,
        loader: ImageLoader,
        pending: _Pending,
    ) -> None:
        """Make one record a sample or a quarantined record."""
        try:
            if isinstance(said, BadRecordError):
                raise said
            digests = [loader.load(reference) for reference in said.images]
            raw = self._source.container.stored_raw(record, said.images, digests)
        except BadRecordError as fault:
            raw = record.raw or self._source.container.stored_raw(record, [], [])
            pending.quarantine.append(
                {
                    "source": name,
                    "source_row": record.row,
                    "code": str(fault.code),
                    "detail": fault.detail.encode(errors="backslashreplace").decode(),
                    "raw": raw,
                }
            )
        else:
            pending.samples.append(
                {
                    "sample_id": f"{name}:{record.row}",
                    "source": name,
                    "source_row": record.row,
                    "source_id": said.source_id,
                    "split": self._split,
                    "messages": said.messages,
                    "images": digests,
                    "unscorable": said.unscorable,
                    "raw": raw,
                }
            )
        pending.num_bytes += len(raw)

    def _commit(self, pending: _Pending, loader: ImageLoader) -> None:
        """Write images before the samples that name them, samples last as they are the cursor."""
        images = [
            {
                "sha256": image.sha256,
                "image": image.content,
                "format": image.format,
                "width": image.width,
                "height": image.height,
            }
            for image in loader.new.values()
        ]
        self._tables.append_images(_table(images, schema.images_schema()))
        loader.mark_stored()
        self._tables.append_quarantine(_table(pending.quarantine, schema.quarantine_schema()))
        self._tables.append_samples(_table(pending.samples, schema.samples_schema()))

    def _count(self, name: str, rows_read: int) -> dict[str, int]:
        """Count what was stored and see that no record was lost."""
        where = f"source = {sql_text(name)}"
        num_samples = self._tables.num_samples(where)
        num_quarantined = self._tables.num_quarantined(where)
        if rows_read == 0:
            raise EmptySourceError(
                f"{self._path} holds no records.", hint="Name a source with at least one record."
            )
        assert rows_read == num_samples + num_quarantined, (
            f"{name}: {rows_read} read, {num_samples} + {num_quarantined} stored"
        )
        if num_samples == 0:
            raise self._nothing_usable(self._tables.quarantine_counts(where))
        return {
            "rows_read": rows_read,
            "num_samples": num_samples,
            "num_quarantined": num_quarantined,
        }

    def _nothing_usable(self, by_code: dict[str, int]) -> EmptySourceError:
        found = ", ".join(f"{count} {code}" for code, count in by_code.items())
        if by_code.keys() & {schema.QuarantineCode.IMAGE_MISSING, "path_escapes_root"}:
            hint = "Name the folder that image paths are relative to with --image-root."
        else:
            hint = "Check that its records are of the format they were read as (--format)."
        dialect = self._source.dialect.name
        return EmptySourceError(
            f"No record of {self._path} can be used ({found}, read as {dialect}).", hint=hint
        )


def _count_cores() -> int:
    """Count the cores that this process may use, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _table(rows: Iterable[dict[str, Any]], table_schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=table_schema)
