"""Whatever is wrong with a source: no traceback, no record lost, nothing half ingested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.malformed import cases

from bye_audit.errors import ByeAuditError
from bye_audit.ingest import ingest_samples, preview_sources
from bye_audit.schema import QuarantineCode
from bye_audit.store.tables import AuditTables

CASES = dict(cases())


def test_there_are_many() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_it_ends_in_quarantine_or_in_one_clear_error(name: str, tmp_path: Path) -> None:
    write: Callable[[Path], Path] = CASES[name]
    path = write(tmp_path / "data")
    tables = AuditTables.create(tmp_path / "audit")
    error, summary = None, None
    try:
        summary = ingest_samples(tables, [path])
    except ByeAuditError as caught:
        error = caught
    if summary is None:
        assert error is not None
        assert str(error).endswith(".")
        assert error.hint
        assert tables.num_samples() == tables.num_quarantined() == 0
        return
    assert summary.rows_read == summary.num_samples + summary.num_quarantined
    assert summary.num_samples == tables.num_samples() > 0
    assert summary.num_quarantined == tables.num_quarantined()
    assert set(summary.by_code) <= set(QuarantineCode)
    rows = tables.dataset("quarantine").to_table().to_pylist()
    assert all(row["detail"] for row in rows)
    # What is shown beforehand is what becomes of it.
    (preview,) = preview_sources([path], num_examples=1000)
    assert len(preview.examples) == summary.rows_read
