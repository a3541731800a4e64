"""The identity of the ingested data, whatever happens to the files that hold it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import lance
import pyarrow as pa

if TYPE_CHECKING:
    from hashlib import _Hash

_COLUMNS = ["source", "source_row", "sample_id", "source_id", "split", "messages", "images", "raw"]
_BATCH_ROWS = 4096


def digest_of_samples(dataset: lance.LanceDataset) -> str:
    """Hash every sample by source and row; images count by their own sha256.

    Parameters
    ----------
    dataset
        The samples table, in any order and any state of scoring.

    Returns
    -------
    str
        A hexadecimal sha256. Memory does not grow with the number of samples as long as each
        source's rows lie in order, which they do unless somebody rearranged the table.
    """
    sources = _hash_sources(dataset, ordered=False) or _hash_sources(dataset, ordered=True)
    assert sources is not None, "a sorted scan is in order"
    whole = hashlib.sha256()
    for name in sorted(sources):
        whole.update(json.dumps([name, sources[name].hexdigest()]).encode())
    return whole.hexdigest()


def _hash_sources(dataset: lance.LanceDataset, *, ordered: bool) -> dict[str, _Hash] | None:
    """Hash each source's rows in order of row, or give None where they do not lie in order."""
    order = ["source", "source_row"] if ordered else None
    hashes: dict[str, _Hash] = {}
    last_rows: dict[str, int] = {}
    scanner = dataset.scanner(
        columns=_COLUMNS, batch_size=_BATCH_ROWS, scan_in_order=True, order_by=order
    )
    for batch in scanner.to_batches():
        for source, row, line in _lines(batch):
            if row <= last_rows.get(source, -1):
                return None
            last_rows[source] = row
            hashes.setdefault(source, hashlib.sha256()).update(line)
    return hashes


def _lines(batch: pa.RecordBatch) -> list[tuple[str, int, bytes]]:
    lines = []
    for row in batch.to_pylist():
        raw = hashlib.sha256(row.pop("raw")).hexdigest()
        text = json.dumps([row, raw], sort_keys=True, separators=(",", ":"))
        lines.append((row["source"], row["source_row"], text.encode() + b"\n"))
    return lines
