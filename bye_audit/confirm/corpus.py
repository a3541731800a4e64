"""The texts of the scored samples, read as a stream: only those asked for are kept, and clipped.

Shapes: N = scored samples, in the order of the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bye_audit.schema import ScoreStatus

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

_BATCH_SIZE = 2048
_LOWEST_LOGP = "answer_logp_min"
# As much of an answer as is judged, whatever its tokens; of a question its begin and end.
_MAX_ANSWER_CHARS = 4096
_MAX_QUESTION_CHARS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleText:
    """What one sample asks and answers first."""

    row: int
    """Number of the sample in the table."""
    question: str
    answer: str


def read_texts(tables: AuditTables, numbers: NDArray[np.integer]) -> list[SampleText]:
    """Read the texts of some scored samples.

    Parameters
    ----------
    tables
        The audit, after ``score``.
    numbers
        Rows of the evidence.

    Returns
    -------
    list of SampleText
        In the order of ``numbers``.
    """
    wanted = set(numbers.tolist())
    found = {number: text for number, text in _scored_texts(tables) if number in wanted}
    return [found[number] for number in numbers.tolist()]


def find_answers(tables: AuditTables, matches: Callable[[str], bool]) -> list[int]:
    """Give the table's row numbers of the scored samples whose first answer is as asked for."""
    return [text.row for _, text in _scored_texts(tables) if matches(text.answer)]


def find_contradicted(tables: AuditTables) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the scored samples whose answers the model does not give.

    An answer that is given has no token that is less likely than all others together.

    Returns
    -------
    tuple of ndarray
        Rows of the evidence and the same samples' row numbers in the table, of the samples with a
        token of a probability below one half. Empty if the audit was scored without likelihoods.
    """
    if _LOWEST_LOGP not in tables.sample_columns():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    batches = [
        (
            np.array([status == ScoreStatus.OK for status in batch["score_status"].to_pylist()]),
            batch[_LOWEST_LOGP].to_numpy(zero_copy_only=False),
        )
        for batch in tables.scan_samples(["score_status", _LOWEST_LOGP], None, _BATCH_SIZE)
    ]
    is_scored = np.concatenate([status for status, _ in batches])
    lowest = np.concatenate([logp for _, logp in batches])
    rows = np.flatnonzero(is_scored)
    numbers = np.flatnonzero(lowest[rows] < np.log(0.5))
    return numbers, rows[numbers]


def _scored_texts(tables: AuditTables) -> Iterator[tuple[int, SampleText]]:
    number = row = 0
    for batch in tables.scan_samples(["score_status", "messages"], None, _BATCH_SIZE):
        statuses = batch["score_status"].to_pylist()
        for status, turns in zip(statuses, batch["messages"].to_pylist(), strict=True):
            if status == ScoreStatus.OK:
                yield number, _first_exchange(row, turns)
                number += 1
            row += 1


def _first_exchange(row: int, turns: list[dict[str, str]]) -> SampleText:
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    question = turns[first - 1]["content"] if first else ""
    answer = turns[first]["content"] if first < len(turns) else ""
    return SampleText(row=row, question=_clip_middle(question), answer=answer[:_MAX_ANSWER_CHARS])


def _clip_middle(question: str) -> str:
    """Leave out the middle of a long question: tens of thousands of texts are held at once."""
    if len(question) <= _MAX_QUESTION_CHARS:
        return question
    half = _MAX_QUESTION_CHARS // 2
    return f"{question[:half]} {question[-half:]}"
