"""Stage 1: source files become samples, images and, where they cannot, quarantined records."""

from __future__ import annotations

from bye_audit.ingest.preview import Example, Preview, preview_sources
from bye_audit.ingest.stage import ingest_samples
from bye_audit.ingest.summary import IngestSummary, SourceSummary, ingest_record

__all__ = [
    "Example",
    "IngestSummary",
    "Preview",
    "SourceSummary",
    "ingest_record",
    "ingest_samples",
    "preview_sources",
]
