"""Which samples a reader should see: the most suspicious, and a few for contrast."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bye_audit import schema

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

NUM_SUSPICIOUS = 24
NUM_CONTRAST = 6
_BATCH_SIZE = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleChoice:
    """Ids of the samples to show, the most and the least suspicious first.

    Parameters
    ----------
    suspicious_ids
        Removed samples, or where none was removed those that came nearest to it.
    contrast_ids
        The least suspicious samples that are kept.
    """

    suspicious_ids: tuple[str, ...]
    contrast_ids: tuple[str, ...]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """All chosen samples, each once."""
        return tuple(dict.fromkeys(self.suspicious_ids + self.contrast_ids))


def choose_samples(tables: AuditTables) -> SampleChoice:
    """Find the samples at both ends of suspicion in one pass, holding only those.

    Parameters
    ----------
    tables
        After ``filter``. Reads ``sample_id``, ``verdict`` and ``suspicion``.

    Returns
    -------
    SampleChoice
        Empty where no sample has a suspicion, which is so when no mixture was fitted.

    Raises
    ------
    StageNotRunError
        If the audit was not filtered.
    """
    removed = heapq.nlargest(NUM_SUSPICIOUS, _ranked(tables, schema.Verdict.REMOVE))
    kept = list(_ends(_ranked(tables, schema.Verdict.KEEP), NUM_SUSPICIOUS, NUM_CONTRAST))
    suspicious = removed or kept[0]
    return SampleChoice(
        suspicious_ids=tuple(entry[2] for entry in suspicious),
        contrast_ids=tuple(entry[2] for entry in kept[1]),
    )


def _ranked(tables: AuditTables, verdict: str) -> Iterator[tuple[float, int, str]]:
    # The running number breaks ties by the order of ingest.
    number = 0
    where = f"verdict = '{verdict}' AND suspicion IS NOT NULL"
    for batch in tables.scan_samples(["sample_id", "suspicion", "verdict"], where, _BATCH_SIZE):
        names, values = batch["sample_id"].to_pylist(), batch["suspicion"].to_pylist()
        for name, value in zip(names, values, strict=True):
            yield value, -number, name
            number += 1


def _ends(
    entries: Iterator[tuple[float, int, str]], num_largest: int, num_smallest: int
) -> tuple[list[Any], list[Any]]:
    """Largest and smallest entries of one pass, the outermost first."""
    largest: list[tuple[float, int, str]] = []
    smallest: list[tuple[float, int, str]] = []
    for entry in entries:
        _push(largest, entry, num_largest)
        mirrored = (-entry[0], entry[1], entry[2])
        _push(smallest, mirrored, num_smallest)
    return sorted(largest, reverse=True), sorted(smallest, reverse=True)


def _push(heap: list[tuple[float, int, str]], entry: tuple[float, int, str], limit: int) -> None:
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
