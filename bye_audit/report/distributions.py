"""How scores are distributed over all samples, counted in two passes without holding them.

Shapes: N = samples of one batch, Q = quantities counted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.core.entropy import literal_entropy
from bye_audit.report.charts import Histogram

if TYPE_CHECKING:
    import pyarrow as pa

    from bye_audit.store.tables import AuditTables

NUM_BINS = 60
_BATCH_SIZE = 65_536
_SCORED = f"score_status = '{schema.ScoreStatus.OK}'"


def count_entropies(
    tables: AuditTables,
    layers: Sequence[int],
    *,
    is_normalized: bool,
    is_literal: bool = False,
) -> dict[int, Histogram]:
    """Count the entropies of some layers.

    Parameters
    ----------
    tables
        After ``score``. Reads the entropy columns of these layers and ``num_image_tokens``.
    layers
        Which ones.
    is_normalized
        Whether entropies are shares of log T, as the detector took them.
    is_literal
        Whether they are of attention that was not renormalised over the image tokens. Then the
        columns ``image_mass_*`` are read too.

    Returns
    -------
    dict of int to Histogram
        By layer.
    """
    columns = [schema.entropy_column(layer) for layer in layers]
    masses = [schema.image_mass_column(layer) for layer in layers if is_literal]

    def values() -> Iterator[NDArray[np.float64]]:
        for batch in tables.scan_samples(
            [*columns, *masses, "num_image_tokens", "score_status"], _SCORED, _BATCH_SIZE
        ):
            block_QN = np.stack([_numbers(batch, name) for name in columns])
            if is_literal:
                mass_QN = np.stack([_numbers(batch, name) for name in masses])
                block_QN = literal_entropy(block_QN, mass_QN)
            if is_normalized:
                with np.errstate(divide="ignore", invalid="ignore"):
                    block_QN = block_QN / np.log(_numbers(batch, "num_image_tokens"))
            yield block_QN

    return dict(zip(layers, _count(values, len(layers)), strict=True)) if layers else {}


def count_detector_scores(tables: AuditTables) -> Histogram:
    """Count what the detector's mixture was fitted to. Reads ``detector_score``."""

    def values() -> Iterator[NDArray[np.float64]]:
        where = "detector_score IS NOT NULL"
        for batch in tables.scan_samples(["detector_score"], where, _BATCH_SIZE):
            yield _numbers(batch, "detector_score")[None, :]

    return _count(values, 1)[0]


def _count(
    values: Callable[[], Iterator[NDArray[np.float64]]], num_quantities: int
) -> list[Histogram]:
    low_Q = np.full(num_quantities, np.inf)
    high_Q = np.full(num_quantities, -np.inf)
    for block_QN in values():
        finite_QN = np.isfinite(block_QN)
        low_Q = np.minimum(low_Q, np.where(finite_QN, block_QN, np.inf).min(axis=1, initial=np.inf))
        high_Q = np.maximum(
            high_Q, np.where(finite_QN, block_QN, -np.inf).max(axis=1, initial=-np.inf)
        )
    edges = [_edges(low, high) for low, high in zip(low_Q, high_Q, strict=True)]
    counts = [np.zeros(NUM_BINS, dtype=np.int64) for _ in edges]
    for block_QN in values():
        for index, row_N in enumerate(block_QN):
            counts[index] += np.histogram(row_N[np.isfinite(row_N)], bins=edges[index])[0]
    return [Histogram(edges=e, counts=c) for e, c in zip(edges, counts, strict=True)]


def _edges(low: float, high: float) -> NDArray[np.float64]:
    if not np.isfinite(low):
        low, high = 0.0, 1.0
    if high - low < 1e-9 * max(1.0, abs(high)):
        # One value for all: a bar in the middle instead of bins without width.
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, NUM_BINS + 1)


def _numbers(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    # Null becomes NaN here and only here; NaN is never stored.
    return np.asarray(batch[name].to_numpy(zero_copy_only=False), dtype=np.float64)
