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
