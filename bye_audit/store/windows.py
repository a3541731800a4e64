"""Which rows of the samples a stage has still to read, in stretches that share their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bye_audit.store.tables import AuditTables

Rows = NDArray[np.int64]


def plan_windows(
    tables: AuditTables,
    columns: Sequence[str],
    is_to_do: Callable[[pa.RecordBatch], pa.BooleanArray],
    size: int,
) -> list[Rows]:
    """Row numbers of the samples still to be done, in stretches of ``size``.

    Rows that show the same first image follow each other, at the place of the earliest of them;
    otherwise the order is that of ingest. Holds 16 bytes a sample.

    Parameters
    ----------
    tables
        The audit.
    columns
        What ``is_to_do`` looks at.
    is_to_do
        Says of each row of a batch whether it is still to be done.
    size
        Most rows of a stretch.
    """
    rows: list[Rows] = []
    images: list[NDArray[np.uint64]] = []
    start = 0
    for batch in tables.scan_samples([*columns, "images"], None, 65536):
        chosen = np.flatnonzero(is_to_do(batch).to_numpy(zero_copy_only=False))
        rows.append(start + chosen)
        images.append(_first_images(batch["images"].take(pa.array(chosen)), start + chosen))
        start += batch.num_rows
    if not rows:
        return []
    all_rows, keys = np.concatenate(rows), np.concatenate(images)
    _, earliest, inverse = np.unique(keys, return_index=True, return_inverse=True)
    ordered = all_rows[np.argsort(earliest[inverse], kind="stable")]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _first_images(lists: pa.ListArray, rows: Rows) -> NDArray[np.uint64]:
    """Leading 64 bits of each row's first digest; the row number where there is none."""
    keys = rows.astype(np.uint64)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    has_image = np.flatnonzero(lengths > 0)
    first = pc.list_element(lists.take(pa.array(has_image)), 0)
    keys[has_image] = [int(digest[:16], 16) for digest in first.to_pylist()]
    return keys
