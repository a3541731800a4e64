"""Patches as models see them first, and the same square found again among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from support.stored import encode

from bye_audit import mini, schema
from bye_audit.confirm.lookalikes import embed_images
from bye_audit.core.patches import choose_queries
from bye_audit.mini import scenes
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.patches import PatchEmbedder
from bye_audit.progress import SILENT
from bye_audit.schema import PATCH_DIMENSION, PATCHES
from bye_audit.store.patches import nearest_patches
from bye_audit.store.tables import AuditTables


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load_model(str(mini.model_dir()))


def draw(number: int, *, has_square: bool = False) -> Image.Image:
    image = scenes.draw_scene(np.random.default_rng(number)).image.convert("RGB")
    if has_square:
        side = image.width // 8
        image.paste((0, 0, 0), (3 * side, 3 * side, 4 * side + side // 2, 4 * side + side // 2))
    return image


def test_a_change_of_pixels_changes_the_patches_it_touches(vlm: VisionLanguageModel) -> None:
    embedder = PatchEmbedder(vlm, PATCH_DIMENSION)
    before = embedder.embed(draw(0)).astype(np.float32)
    after = embedder.embed(draw(0, has_square=True)).astype(np.float32)
    assert before.shape == (81, PATCH_DIMENSION)
    rows, columns = np.unravel_index(np.flatnonzero((before != after).any(axis=1)), (9, 9))
    assert {*rows, *columns} <= {3, 4, 5}
    assert len(rows) >= 4
    assert embedder.identity["model_digest"] == vlm.digest


def test_neither_tower_nor_decoder_runs(vlm: VisionLanguageModel) -> None:
    embedder = PatchEmbedder(vlm, PATCH_DIMENSION)
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in vlm.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    embedder.embed(draw(0))
    for handle in handles:
        handle.remove()
    assert ran == []


def test_large_and_odd_images_have_patches_too(vlm: VisionLanguageModel) -> None:
    embedder = PatchEmbedder(vlm, PATCH_DIMENSION)
    for size in [(1, 1), (3000, 40), (40, 3000), (1200, 1200)]:
        vectors = embedder.embed(Image.new("RGB", size, "gray"))
        assert np.isfinite(vectors).all()


def test_a_random_models_patches_are_found_as_well(tiny_vlm_dir: Path) -> None:
    embedder = PatchEmbedder(load_model(str(tiny_vlm_dir)), 4)
    vectors = embedder.embed(draw(0))
    assert vectors.shape[1] == 4
    assert len(vectors) > 1


def test_a_planted_square_is_found_whatever_the_samples_answer(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    holds = {f"image {number}": number % 10 == 0 for number in range(120)}
    stored_images = [
        {
            "sha256": name,
            "image": encode(draw(number, has_square=has_square)),
            "format": "PNG",
            "width": 1,
            "height": 1,
        }
        for number, (name, has_square) in enumerate(holds.items())
    ]
    tables.append_images(pa.Table.from_pylist(stored_images, schema=schema.images_schema()))
    embedder = PatchEmbedder(vlm, PATCH_DIMENSION)
    embed_images(tables, embedder, SILENT)

    # What is known: some that give the target, and some that do not.
    known = [draw(number, has_square=True) for number in range(0, 60, 10)]
    covered = [
        embedder.embed(image).astype(np.float32).reshape(9, 9, -1)[4:5, 4] for image in known
    ]
    strangers = [embedder.embed(draw(number)).astype(np.float32) for number in range(201, 240)]
    queries = choose_queries(covered, strangers)
    vectors = np.stack([query.vector for query in queries])
    reaches = [query.reach for query in queries]
    found = nearest_patches(tables, vectors, reaches, 10_000)
    assert {digest for digest, has_square in holds.items() if has_square} <= set(found)
    assert len(found) <= 30

    stored = tables.dataset(PATCHES).to_table()
    flat = stored["vector"].combine_chunks().flatten().to_numpy().astype(np.float64)
    distances = np.linalg.norm(
        flat.reshape(-1, PATCH_DIMENSION)[:, None] - vectors.astype(np.float64), axis=2
    )
    near = (distances <= np.array(reaches)).any(axis=1)
    expected = {
        name for name, is_near in zip(stored["image"].to_pylist(), near, strict=True) if is_near
    }
    assert set(found) == expected
