"""Queries read the audit's tables and reach nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.sources import write_llava_source

from bye_audit import schema
from bye_audit.errors import ConfigError
from bye_audit.ingest import ingest_samples
from bye_audit.store.sql import run_query
from bye_audit.store.tables import AuditTables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> AuditTables:
    folder = tmp_path_factory.mktemp("sql")
    tables = AuditTables.create(folder / "audit")
    ingest_samples(tables, [write_llava_source(folder, 5)])
    tables.add_sample_columns(schema.score_fields(2, {}))
    values = pa.table(
        {
            "sample_id": ["train.json:1"],
            "entropy_00": pa.array([1.5], pa.float32()),
            "entropy_01": pa.array([2.5], pa.float32()),
        }
    )
    tables.update_samples(values)
    halves = np.arange(4, dtype=np.float16)
    row: dict[str, Any] = dict.fromkeys(
        ("image_entropy", "system_mass", "image_mass", "text_mass"), halves
    )
    row |= {"sample_id": "train.json:1", "score_run": "r", "num_layers": 2, "num_heads": 2}
    row["num_image_tokens"] = 9
    tables.append_head_scores(pa.Table.from_pylist([row], schema=schema.head_scores_schema()))
    return tables


def rows(tables: AuditTables, sql: str, max_rows: int | None = None) -> list[dict[str, object]]:
    found: list[dict[str, object]] = run_query(tables, sql, max_rows).to_pylist()
    return found


def test_samples_have_their_entropies_as_a_list(tables: AuditTables) -> None:
    sql = "SELECT entropy, messages[1].role AS role FROM samples WHERE entropy_01 > 2"
    assert rows(tables, sql) == [{"entropy": [1.5, 2.5], "role": "user"}]


def test_every_view_can_be_read_and_joined(tables: AuditTables) -> None:
    sql = "SELECT count(*) AS n FROM samples JOIN head_scores USING (sample_id)"
    assert rows(tables, sql) == [{"n": 1}]
    assert rows(tables, "SELECT image_entropy[2] AS x FROM head_scores") == [{"x": 1.0}]
    assert rows(tables, "SELECT stage FROM runs") == [{"stage": "ingest"}]
    assert rows(tables, "SELECT * FROM quarantine") == []
    assert "image" not in run_query(tables, "SELECT * FROM images").column_names


def test_rows_are_limited(tables: AuditTables) -> None:
    assert len(rows(tables, "SELECT sample_id FROM samples", 2)) == 2
    assert len(rows(tables, "SELECT sample_id FROM samples", 99)) == 5
    assert rows(tables, "SELECT sample_id FROM samples", 0) == []


@pytest.mark.parametrize("sql", ["DESCRIBE samples", "SUMMARIZE samples", "EXPLAIN SELECT 1"])
def test_looking_around_is_allowed(tables: AuditTables, sql: str) -> None:
    assert rows(tables, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY samples TO '{folder}/x.csv'",
        "EXPLAIN ANALYZE COPY samples TO '{folder}/x.csv'",
        "explain  analyze\ncopy samples to '{folder}/x.csv'",
        "SELECT * FROM query('COPY samples TO ''{folder}/x.csv''')",
        "EXPORT DATABASE '{folder}/x.csv'",
        "ATTACH '{folder}/x.csv' AS x",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM tables",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "DELETE FROM samples",
        "DROP VIEW samples",
        "INSERT INTO _samples SELECT * FROM _samples",
        "CREATE TABLE x AS SELECT 1",
        "SELECT 1; DROP VIEW samples",
        "PRAGMA database_list",
        "",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT no_such_column FROM samples",
    ],
)
def test_anything_but_reading_the_views_is_refused(
    tables: AuditTables, tmp_path: Path, sql: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_query(tables, sql.format(folder=tmp_path))
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert tables.num_samples() == 5
