"""Patches stored and searched for, against numpy on the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.stored import make_audit

from bye_audit.schema import PATCH_DIMENSION, PATCHES
from bye_audit.store.patches import (
    append_patches,
    claim_patches,
    embedded_images,
    index_patches,
    nearest_patches,
)
from bye_audit.store.tables import AuditTables

MODEL = {"model_digest": "a", "adapter_digest": "b"}


def draw(num_images: int, num_patches: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_images, num_patches, PATCH_DIMENSION)).astype(np.float16)
    return {f"{seed}-{number}": own for number, own in enumerate(vectors)}


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    tables = make_audit(tmp_path / "audit", num_samples=1)
    claim_patches(tables, MODEL)
    return tables


def test_without_an_index_the_search_is_numpys(tables: AuditTables) -> None:
    stored = draw(200)
    append_patches(tables, stored)
    queries = np.random.default_rng(1).normal(size=(5, PATCH_DIMENSION)).astype(np.float16)
    expected: dict[str, float] = {}
    reaches = [5.0, 5.5, 6.0, 0.0, 100.0]
    for query, reach in zip(queries.astype(np.float64), reaches, strict=True):
        for image, own in stored.items():
            distance = float(np.linalg.norm(own.astype(np.float64) - query, axis=1).min())
            if distance <= reach:
                expected[image] = min(distance, expected.get(image, distance))
    found = nearest_patches(tables, queries, reaches, 10_000)
    assert found.keys() == expected.keys()
    assert all(found[image] == pytest.approx(expected[image], rel=2e-3) for image in expected)
    # Fewer looked at: the nearest.
    few = nearest_patches(tables, queries[-1:], [100.0], 3)
    assert set(few) <= set(found)
    assert min(few.values()) == pytest.approx(
        min(nearest_patches(tables, queries[-1:], [100.0], 10_000).values())
    )


def test_an_index_finds_what_is_close(tables: AuditTables) -> None:
    append_patches(tables, draw(100))
    assert not index_patches(tables)
    assert index_patches(tables, min_rows=500)
    # Appended later, and so not in the index.
    late = draw(3, seed=7)
    append_patches(tables, late)
    for image, own in [*list(draw(100).items())[:5], *late.items()]:
        found = nearest_patches(tables, own[:1].astype(np.float32), [0.05], 10)
        assert list(found) == [image]


def test_equal_patches_of_an_image_are_stored_once(tables: AuditTables) -> None:
    plain = np.zeros((50, PATCH_DIMENSION), np.float16)
    plain[7] = 1
    append_patches(tables, {"plain": plain})
    rows = tables.dataset(PATCHES).to_table(columns=["patch"])["patch"].to_pylist()
    assert rows == [0, 7]
    assert embedded_images(tables) == {"plain"}
    append_patches(tables, {})


def test_patches_of_another_model_are_dropped(tables: AuditTables) -> None:
    append_patches(tables, draw(2))
    claim_patches(tables, MODEL)
    assert len(embedded_images(tables)) == 2
    claim_patches(tables, {**MODEL, "adapter_digest": "c"})
    assert embedded_images(tables) == set()
