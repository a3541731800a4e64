"""Vectors of image patches, and the search for those nearest to a given one.

Shapes: T = patches of one image, D = size of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lance
import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.store.border import storage_errors
from bye_audit.store.reading import scan
from bye_audit.store.tables import AuditTables

INDEXED_ROWS = 4_000_000
"""Patches from which on an index is made; below, looking at all of them takes about a second."""
_NUM_PROBES = 32
_REFINE_FACTOR = 4


def claim_patches(tables: AuditTables, identity: Mapping[str, str]) -> None:
    """Make room for the patches of one model; those of another are dropped."""
    with storage_errors("make the table of patches"):
        if tables.has_table(schema.PATCHES):
            stored = tables.dataset(schema.PATCHES).schema.metadata or {}
            if all(stored.get(k.encode()) == v.encode() for k, v in identity.items()):
                return
            lancedb.connect(tables.uri).drop_table(schema.PATCHES)
        fields = schema.patches_schema().with_metadata(dict(identity))
        lancedb.connect(tables.uri).create_table(schema.PATCHES, schema=fields)


def embedded_images(tables: AuditTables) -> set[str]:
    """Digests of the images whose patches are stored."""
    found: set[str] = set()
    # Each image has its first patch.
    for batch in scan(tables.dataset(schema.PATCHES), ["image"], "patch = 0", 65536):
        found.update(batch["image"].to_pylist())
    return found


def append_patches(
    tables: AuditTables, vectors_by_image: Mapping[str, NDArray[np.float16]]
) -> None:
    """Store the patches of some images as one commit.

    Patches of one image that are equal to the bit are stored once, under the first one's number.
    """
    names: list[str] = []
    numbers: list[NDArray[np.int64]] = []
    vectors: list[NDArray[np.float16]] = []
    for digest, own in vectors_by_image.items():
        first = np.sort(np.unique(own, axis=0, return_index=True)[1])
        names += [digest] * len(first)
        numbers.append(first)
        vectors.append(own[first])
    if not names:
        return
    flat = pa.array(np.concatenate(vectors).reshape(-1), pa.float16())
    columns = {
        "image": pa.array(names, pa.string()),
        "patch": pa.array(np.concatenate(numbers), pa.int32()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, schema.PATCH_DIMENSION),
    }
    dataset = tables.dataset(schema.PATCHES)
    with storage_errors(f"write to the table {schema.PATCHES} of {tables.uri}"):
        lance.write_dataset(pa.table(columns, schema=dataset.schema), dataset, mode="append")


def index_patches(tables: AuditTables, min_rows: int = INDEXED_ROWS) -> bool:
    """Make an index of many patches, if there is none; tell whether there is one now."""
    with storage_errors("index the patches"):
        dataset = tables.dataset(schema.PATCHES)
        num_rows = dataset.count_rows()
        if num_rows < min_rows:
            return False
        if not dataset.describe_indices():
            dataset.create_index(
                "vector",
                "IVF_PQ",
                metric="l2",
                num_partitions=max(1, round(num_rows**0.5)),
                num_sub_vectors=schema.PATCH_DIMENSION // 2,
            )
        return True


def nearest_patches(
    tables: AuditTables, queries: NDArray[np.floating], reaches: Sequence[float], count: int
) -> dict[str, float]:
    """Give the images that hold a patch near one of some vectors.

    Parameters
    ----------
    tables
        With patches.
    queries
        Vectors to look for, (N, D).
    reaches
        Largest Euclidean distance from each of them.
    count
        Patches that are looked at for each of them, the nearest.

    Returns
    -------
    dict
        From the digest of an image to the distance of its nearest patch. Without an index exact,
        to the rounding of half precision; with one a few may be missed.
    """
    dataset = tables.dataset(schema.PATCHES)
    found: dict[str, float] = {}
    for query, reach in zip(queries, reaches, strict=True):
        with storage_errors("search the patches"):
            near = dataset.to_table(
                columns=["image", "_distance"],
                nearest={
                    "column": "vector",
                    "q": query.astype(np.float32),
                    "k": count,
                    "metric": "l2",
                    "nprobes": _NUM_PROBES,
                    "refine_factor": _REFINE_FACTOR,
                },
            )
        # What Lance calls the distance is its square.
        distances = np.sqrt(np.maximum(near["_distance"].to_numpy(), 0.0))
        for digest, distance in zip(near["image"].to_pylist(), distances.tolist(), strict=True):
            if distance <= reach:
                found[digest] = min(distance, found.get(digest, distance))
    return found
