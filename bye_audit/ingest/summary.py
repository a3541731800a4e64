"""What became of the sources of an audit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bye_audit.store.source_list import list_sources
from bye_audit.store.tables import AuditTables, sql_text


@dataclass(frozen=True)
class SourceSummary:
    """What became of one source file."""

    source: str
    format: str
    """The dialect of its records."""
    container: str
    """How they lie in it."""
    sha256: str
    split: str
    rows_read: int
    num_samples: int
    num_quarantined: int
    is_new: bool
    """False if an earlier run had finished it."""


@dataclass(frozen=True)
class IngestSummary:
    """What became of all the sources given."""

    rows_read: int
    num_samples: int
    num_quarantined: int
    num_images: int
    """Distinct images in the audit directory."""
    by_source: list[SourceSummary]
    by_code: dict[str, int]
    """Quarantined records of these sources by reason, commonest first."""


def summarise(tables: AuditTables, by_source: list[SourceSummary]) -> IngestSummary:
    """Add up what became of some sources."""
    names = ", ".join(sql_text(summary.source) for summary in by_source)
    return IngestSummary(
        rows_read=sum(summary.rows_read for summary in by_source),
        num_samples=sum(summary.num_samples for summary in by_source),
        num_quarantined=sum(summary.num_quarantined for summary in by_source),
        num_images=tables.num_images(),
        by_source=by_source,
        by_code=tables.quarantine_counts(f"source IN ({names})"),
    )


def ingest_record(tables: AuditTables) -> dict[str, Any]:
    """Describe all finished sources of an audit, for its run record and its provenance."""
    summaries = [
        summary_of(name, entry, is_new=False)
        for name, entry in list_sources(tables).items()
        if entry["is_finished"]
    ]
    sources = []
    for summary in summaries:
        source = asdict(summary)
        del source["is_new"]
        sources.append(source)
    return {
        "sources": sources,
        "rows_read": sum(summary.rows_read for summary in summaries),
        "num_samples": sum(summary.num_samples for summary in summaries),
        "num_quarantined": sum(summary.num_quarantined for summary in summaries),
        "num_images": tables.num_images(),
        "quarantine_by_code": tables.quarantine_counts(),
    }


def summary_of(name: str, entry: dict[str, Any], *, is_new: bool) -> SourceSummary:
    """Say what became of one finished source, given what ingest knows of it."""
    return SourceSummary(
        source=name,
        format=entry["format"],
        container=entry["container"],
        sha256=entry["sha256"],
        split=entry["split"],
        rows_read=entry["rows_read"],
        num_samples=entry["num_samples"],
        num_quarantined=entry["num_quarantined"],
        is_new=is_new,
    )
