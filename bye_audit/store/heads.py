"""Per-head statistics of the scored samples, read a batch at a time.

Shapes: N = scored samples, B = samples of a batch, L = decoder layers, H = heads of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bye_audit.errors import TableError
from bye_audit.store.tables import AuditTables

_BATCH_SIZE = 4096


class StoredHeadScores:
    """The rows of ``head_scores`` that belong to the samples' present scores.

    Parameters
    ----------
    tables
        Where they are.
    sample_id, score_run
        The scored samples in the order of the evidence, and the run that scored each. Rows of
        other runs are passed over, and so are rows that a killed run left twice.
    """

    def __init__(
        self, tables: AuditTables, sample_id: pa.ChunkedArray, score_run: pa.ChunkedArray
    ) -> None:
        self._tables = tables
        self._sample_id = sample_id.combine_chunks()
        self._score_run = score_run
        self._runs = score_run.unique().to_pylist()
        first = next(self._scan(["num_layers", "num_heads"], 1), None)
        self.num_layers: int = 0 if first is None else first["num_layers"][0].as_py()
        self.num_heads: int = 0 if first is None else first["num_heads"][0].as_py()

    def batches(
        self, names: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]]:
        """Give rows of the evidence and their statistics, shape (B, L, H); NaN stands for null.

        Raises
        ------
        TableError
            If the rows are not all of one number of layers and heads.
        """
        current_run = self._score_run.to_numpy()
        is_seen = np.zeros(len(self._sample_id), dtype=bool)
        for batch in self._scan(["sample_id", "score_run", *names], _BATCH_SIZE):
            found = pc.index_in(batch["sample_id"], value_set=self._sample_id)
            rows = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            runs = batch["score_run"].to_numpy(zero_copy_only=False)
            is_wanted = (rows >= 0) & (current_run[rows] == runs) & ~is_seen[rows]
            # Of rows that are in one batch twice, the first.
            _, first = np.unique(rows, return_index=True)
            chosen = first[is_wanted[first]]
            is_seen[rows[chosen]] = True
            if chosen.size:
                yield rows[chosen], {name: self._cube(batch[name])[chosen] for name in names}

    def _scan(self, columns: list[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        for run in self._runs:
            yield from self._tables.scan_head_scores(run, columns, batch_size)

    def _cube(self, lists: pa.ListArray) -> NDArray[np.float32]:
        shape = (len(lists), self.num_layers, self.num_heads)
        values = lists.flatten()
        if len(values) != np.prod(shape):
            raise TableError(
                f"{self._tables.uri} holds statistics of different numbers of layers or heads.",
                hint=f"Run `bye-audit score {self._tables.uri} --restart`.",
            )
        halves = values.to_numpy(zero_copy_only=False)
        return np.asarray(halves, dtype=np.float32).reshape(shape)
