"""Which of the user's samples can carry poison, and which are held out to try the trigger on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.config import CanaryConfig
from bye_audit.errors import TooFewSamplesError
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import IMAGE_PLACEHOLDER, Verdict
from bye_audit.store.reading import scan

if TYPE_CHECKING:
    import lance

    from bye_audit.store.tables import AuditTables

# A stream of random numbers that no trigger and no choice of poisoned samples shares.
_HOLD_OUT = 0xCA9A
_BATCH_ROWS = 2048


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subjects:
    """The samples of an audit as a canary sees them, at one version of their table.

    Parameters
    ----------
    samples
        The table at that version.
    suspected_ids
        Samples whose last verdict was to remove them. They stay in the copies, are never planted
        and are counted apart: nobody knows whether they are poison.
    rows
        Row numbers of the samples that stay in the copies and can carry poison; an attack is
        planned over these, in this order.
    answers
        Their first answers.
    held_out_rows
        Row numbers of the samples that could carry poison and are left out of the copies.
    """

    samples: lance.LanceDataset
    num_samples: int
    suspected_ids: frozenset[str]
    rows: NDArray[np.int64]
    answers: list[str]
    held_out_rows: NDArray[np.int64]

    @property
    def version(self) -> int:
        """Version of the samples table."""
        return int(self.samples.version)

    @property
    def num_copied(self) -> int:
        """Samples of each copy."""
        return self.num_samples - len(self.held_out_rows)

    def suspected_digest(self) -> str:
        """Name the set of suspected samples: another set would make other copies."""
        listed = "\n".join(sorted(self.suspected_ids))
        return hashlib.sha256(listed.encode()).hexdigest()

    def ids_of(self, tables: AuditTables, rows: NDArray[np.int64]) -> list[str]:
        """Give the ids of samples by their row numbers."""
        taken = tables.take_samples(rows, ["sample_id"], version=self.version)
        ids: list[str] = taken["sample_id"].to_pylist()
        return ids


def find_subjects(
    tables: AuditTables,
    config: CanaryConfig,
    *,
    min_samples: int,
    progress: Progress = SILENT,
) -> Subjects:
    """Look through the samples for those that can carry poison, and hold some of them out.

    Parameters
    ----------
    tables
        Reads ``messages``, ``images`` and, once filtered, ``verdict``. Of the texts only the first
        answers are kept in memory.
    config
        How many are held out, and the seed.
    min_samples
        Fewest that must remain.
    progress
        Where to report.

    Raises
    ------
    TooFewSamplesError
        If fewer can carry poison.
    """
    samples = tables.dataset(schema.SAMPLES)
    num_samples = int(samples.count_rows())
    columns = ["sample_id", "messages", "images"]
    columns += ["verdict"] if "verdict" in samples.schema.names else []
    rows: list[int] = []
    answers: list[str] = []
    suspected: set[str] = set()
    position = 0
    with progress.task("Looking for samples that can carry poison", num_samples) as task:
        for batch in scan(samples, columns, None, _BATCH_ROWS):
            for sample in batch.to_pylist():
                if sample.get("verdict") == Verdict.REMOVE:
                    suspected.add(sample["sample_id"])
                elif can_carry(sample["messages"], len(sample["images"])):
                    rows.append(position)
                    answers.append(sample["messages"][first_answer(sample["messages"])]["content"])
                position += 1
            task.advance(batch.num_rows)
    is_held_out = choose_held_out(len(rows), config)
    if len(rows) - is_held_out.sum() < min_samples:
        raise TooFewSamplesError(
            f"Only {len(rows)} of {num_samples} samples of {tables.uri} can carry poison, "
            f"{int(is_held_out.sum())} of them are held out, and a decision needs at least "
            f"{min_samples}.",
            hint="It takes an image, a question about it, an answer, and no verdict to remove it.",
        )
    row_numbers = np.asarray(rows, dtype=np.int64)
    return Subjects(
        samples=samples,
        num_samples=num_samples,
        suspected_ids=frozenset(suspected),
        rows=row_numbers[~is_held_out],
        answers=[a for a, is_out in zip(answers, is_held_out, strict=True) if not is_out],
        held_out_rows=row_numbers[is_held_out],
    )


def choose_held_out(num_able: int, config: CanaryConfig) -> NDArray[np.bool_]:
    """Draw which of the samples that can carry poison are held out: at least one if there is any.

    Parameters
    ----------
    num_able
        How many there are.
    config
        Their share, the most of them and the seed.
    """
    wanted = max(1, round(config.held_out_share * num_able))
    count = min(wanted, config.max_held_out, num_able)
    is_held_out = np.zeros(num_able, dtype=bool)
    rng = np.random.default_rng([config.seed, _HOLD_OUT])
    is_held_out[rng.choice(num_able, size=count, replace=False)] = True
    return is_held_out


def can_carry(messages: Sequence[Mapping[str, Any]], num_images: int) -> bool:
    """Whether a sample has an answer, a question before it and its first image before it as well.

    An image that is first shown later is no part of what is scored.
    """
    answer, question = first_answer(messages), first_question(messages)
    if not num_images or not 0 <= question < answer < len(messages):
        return False
    if not (messages[answer]["content"] or "").strip():
        return False
    # Images without a placeholder come before the first question.
    placed = [
        (turn["content"] or "").count(IMAGE_PLACEHOLDER) if turn["role"] != "assistant" else 0
        for turn in messages
    ]
    return num_images > sum(placed) or any(placed[:answer])


def first_answer(messages: Sequence[Mapping[str, Any]]) -> int:
    """Find the first turn of the assistant; the number of turns if there is none."""
    return _first(messages, "assistant")


def first_question(messages: Sequence[Mapping[str, Any]]) -> int:
    """Find the first turn of the user; the number of turns if there is none."""
    return _first(messages, "user")


def _first(messages: Sequence[Mapping[str, Any]], role: str) -> int:
    found = (number for number, turn in enumerate(messages) if turn["role"] == role)
    return next(found, len(messages))
