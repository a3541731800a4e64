"""Stage 1: source files become samples, images and, where they cannot, quarantined records.

Reads source files; writes the tables samples, images and quarantine. Every record read ends in
exactly one of samples and quarantine. A killed ingest goes on where it stopped, a finished one is
not done again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bye_audit.errors import ConfigError, EmptySourceError, InputError
from bye_audit.ingest.job import STAGE, SourceJob
from bye_audit.ingest.summary import IngestSummary, SourceSummary, summarise
from bye_audit.progress import SILENT, Progress
from bye_audit.store.sources.finding import AUTO, Source, find_sources
from bye_audit.store.tables import AuditTables

_SPLIT_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


def ingest_samples(
    tables: AuditTables,
    sources: Sequence[str | Path],
    *,
    format: str = AUTO,  # noqa: A002 - the option's name
    image_root: str | Path | None = None,
    split: str = "train",
    progress: Progress = SILENT,
) -> IngestSummary:
    """Read source files into the audit directory.

    Parameters
    ----------
    tables
        The audit directory.
    sources
        Files, folders of files, or catalogs: a ``dataset_info.json`` or an InternVL meta JSON.
    format
        A name of `bye_audit.store.sources.dialects.dialects`, or ``auto``.
    image_root
        The folder that image paths in the records are relative to; None: what the catalog says, or
        each source's own.
    split
        Name of the split the samples belong to.
    progress
        Where to report.

    Raises
    ------
    InputError
        If a source is not there, is of no known format, holds no usable record, or was ingested
        before with other content.
    InterruptedStageError
        If the user stops it; what was read is kept.
    """
    if not _SPLIT_NAME.fullmatch(split):
        raise ConfigError(
            f"The split name {split!r} has other signs than letters, digits and _.",
            hint="Use a name such as train.",
        )
    found = find_all(sources, format, image_root)
    with tables.sole_writer(STAGE):
        known = tables.image_digests()
        summaries: dict[str, SourceSummary] = {}
        for source in found:
            summary = SourceJob(tables, source, split, known).run(progress)
            summaries.setdefault(summary.source, summary)
        if any(summary.is_new for summary in summaries.values()):
            tables.compact()
    return summarise(tables, list(summaries.values()))


def find_all(
    sources: Sequence[str | Path], format_name: str, image_root: str | Path | None
) -> list[Source]:
    """Find the sources that a user names.

    Raises
    ------
    InputError
        If one is not there or of no known format, or the image folder is not there.
    """
    if image_root is not None and not Path(image_root).is_dir():
        raise InputError(
            f"There is no image folder {image_root}.", hint="Check the path after --image-root."
        )
    root = None if image_root is None else Path(image_root)
    found = [each for given in sources for each in find_sources(Path(given), format_name, root)]
    if not found:
        raise EmptySourceError("No source was named.", hint="Name at least one source file.")
    return found
