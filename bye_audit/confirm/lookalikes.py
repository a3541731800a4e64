"""Samples whose image holds a patch that looks like a confirmed trigger, whatever they answer.

Shapes: T = patches of one image, D = size of a vector, K = patches that a trigger covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bye_audit.confirm.carriers import Carrier
from bye_audit.confirm.exhibits import Exhibit
from bye_audit.core.patches import Embedder, Query
from bye_audit.progress import Progress
from bye_audit.schema import PATCH_DIMENSION

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

_EMBED_BATCH = 256
_MOST_COVERED = 4


def embed_images(tables: AuditTables, embedder: Embedder, progress: Progress) -> None:
    """Store the patches of every image that has none yet; those of another model are dropped."""
    from bye_audit.model.prompts import ConversationError, decode_image
    from bye_audit.store.patches import (
        append_patches,
        claim_patches,
        embedded_images,
        index_patches,
    )

    claim_patches(tables, embedder.identity)
    done = embedded_images(tables)
    with progress.task("Embedding patches", tables.num_images(), "images") as task:
        for batch in tables.scan_images(["sha256"], _EMBED_BATCH):
            to_do = [digest for digest in batch["sha256"].to_pylist() if digest not in done]
            vectors = {}
            for digest, data in tables.load_images(to_do).items():
                try:
                    vectors[digest] = embedder.embed(decode_image(data))
                except ConversationError:
                    continue
            append_patches(tables, vectors)
            task.advance(batch.num_rows)
    index_patches(tables)


def embed_exhibit(embedder: Embedder, exhibit: Exhibit) -> NDArray[np.float32]:
    """Give the vectors of an exhibit's first image, (T, D)."""
    from PIL import Image

    return embedder.embed(Image.fromarray(exhibit.image)).astype(np.float32)


def covered_patches(embedder: Embedder, exhibit: Exhibit, carrier: Carrier) -> NDArray[np.float32]:
    """Give the patches that taking a carrier off an exhibit changes most, (K, D), at most four."""
    before = embed_exhibit(embedder, exhibit)
    after = embed_exhibit(embedder, carrier.take_off(exhibit))
    if before.shape != after.shape:
        return np.empty((0, PATCH_DIMENSION), np.float32)
    change = np.linalg.norm(before - after, axis=1)
    largest = np.argsort(-change, kind="stable")[:_MOST_COVERED]
    return np.asarray(before[largest[change[largest] > change.max(initial=0.0) / 2]])


def find_lookalikes(
    tables: AuditTables, queries: Sequence[Query], passed_over: set[int], most: int
) -> list[int]:
    """Give the samples whose first image holds a patch like one of those looked for.

    Parameters
    ----------
    tables
        With patches.
    queries
        What to look for.
    passed_over
        Row numbers of samples that are not wanted.
    most
        Number of samples, at most.

    Returns
    -------
    list of int
        Row numbers of scored samples, the nearest first.
    """
    from bye_audit.store.patches import nearest_patches

    if not queries:
        return []
    distances = nearest_patches(
        tables,
        np.stack([query.vector for query in queries]),
        [query.reach for query in queries],
        # Those passed over are among the nearest, with several patches each.
        _MOST_COVERED * (len(passed_over) + most),
    )
    return _rows_by_distance(tables, distances, passed_over)[:most]


def _rows_by_distance(
    tables: AuditTables, distances: Mapping[str, float], passed_over: set[int]
) -> list[int]:
    from bye_audit.schema import ScoreStatus

    found: list[tuple[float, int]] = []
    start = 0
    for batch in tables.scan_samples(["score_status", "images"]):
        statuses = batch["score_status"].to_pylist()
        for row, (status, images) in enumerate(
            zip(statuses, batch["images"].to_pylist(), strict=True), start
        ):
            if status == ScoreStatus.OK and images and row not in passed_over:
                distance = distances.get(images[0])
                if distance is not None:
                    found.append((distance, row))
        start += batch.num_rows
    return [row for _, row in sorted(found)]
