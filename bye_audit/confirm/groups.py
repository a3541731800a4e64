"""Who is questioned together: suspects of one answer, and samples that the model contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import ConfirmConfig
from bye_audit.confirm.corpus import SampleText, find_contradicted, read_texts
from bye_audit.confirm.patterns import AnotherAnswer, Pattern
from bye_audit.confirm.suspects import Suspects, describe_answers, group_suspects, peculiarity

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

# Enough to tell what is common among all samples, however many there are.
_NUM_OTHERS = 5_000
# Where the model misses more answers than that, that it misses one tells nothing.
_MOST_CONTRADICTED = 0.5
# Four are searched and six screened, and of fewer than five more no trial confirms anything.
_FEWEST_CONTRADICTED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Samples with one kind of answer, and their place among the groups.

    Parameters
    ----------
    index
        Of the group.
    pattern
        What is suspicious about their answers.
    texts
        Of the suspects the most suspicious first; of contradicted samples in no order.
    """

    index: int
    pattern: Pattern
    texts: Sequence[SampleText]


def form_groups(
    tables: AuditTables, num_scored: int, suspects: Suspects, config: ConfirmConfig
) -> tuple[list[Group], list[SampleText]]:
    """Group the suspects by their answers, and draw unsuspicious samples to compare with.

    Returns
    -------
    tuple
        The groups in the order of asking: those whose answer is peculiar to suspects, samples that
        the model contradicts, if there are any, and the rest. And the unsuspicious samples.
    """
    contradicted = _draw_contradicted(tables, num_scored, config)
    rng = np.random.default_rng([config.seed, 0xC0F])
    rest = np.setdiff1d(np.arange(num_scored), [*suspects.numbers, *contradicted])
    drawn = rng.permutation(rest)[:_NUM_OTHERS]
    texts = iter(read_texts(tables, np.concatenate([suspects.numbers, contradicted, drawn])))
    suspected = list(islice(texts, len(suspects.numbers)))
    denied = list(islice(texts, len(contradicted)))
    others = list(texts)
    answers = [text.answer for text in others]
    groups = group_suspects(
        [text.answer for text in suspected],
        answers,
        min_size=config.min_group,
        max_groups=config.max_groups,
    )
    found: list[tuple[Pattern, list[SampleText]]] = [
        (group.pattern, [suspected[member] for member in group.members]) for group in groups
    ]
    if len(denied) >= max(config.min_group, _FEWEST_CONTRADICTED):
        # An answer that others have as well tells less than that the model denies it.
        peculiar = [group.pattern for group in groups if peculiarity(group, answers) >= 1]
        another = AnotherAnswer(describe_answers(answers), peculiar)
        found.insert(len(peculiar), (another, denied))
    return [
        Group(index=index, pattern=pattern, texts=members)
        for index, (pattern, members) in enumerate(found)
    ], others


def _draw_contradicted(
    tables: AuditTables, num_scored: int, config: ConfirmConfig
) -> NDArray[np.int64]:
    """Draw samples whose answers the model hardly gives; none if that is usual here."""
    numbers, _ = find_contradicted(tables)
    if len(numbers) > _MOST_CONTRADICTED * num_scored:
        return numbers[:0]
    rng = np.random.default_rng([config.seed, 0xC0])
    return rng.permutation(numbers)[: config.max_suspects]
