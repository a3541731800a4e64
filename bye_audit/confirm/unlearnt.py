"""Suspects who share an answer that the model has not learnt, so that it cannot be asked for it.

Nothing can be carried over that would take such an answer along. But where the model gives other
samples theirs, that none of those who share this one gets it says that nothing in them leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.sweep import SweptSample
from bye_audit.schema import Intervention

NUM_CONTROLS = 24
_LEARNT_SHARE = 0.5
"""Least share of other samples that get their answers. If suspects had this chance, 24 of them
(as many as are asked before an answer counts as not learnt) would all miss it once in 10^7."""
_MAX_GIVEN_SHARE = 0.1
"""Most suspects that may get theirs; an answer that some get is being learnt."""


def find_unlearnt(
    suspects: Sequence[Exhibit], others: Sequence[Exhibit], ask: Interrogator
) -> list[SweptSample]:
    """Give the suspects whose shared answer the model does not give, if it has learnt others'.

    Parameters
    ----------
    suspects
        Samples with one and the same answer.
    others
        Unsuspicious samples with other answers.
    ask
        The provisional model.

    Returns
    -------
    list of SweptSample
        All ``unlearnt``. Empty if the model misses too many of the other answers, which would make
        this one nothing special, or gives the suspects theirs now and then.
    """
    controls = _are_given(others[:NUM_CONTROLS], ask)
    if not controls or sum(controls) < _LEARNT_SHARE * len(controls):
        return []
    given = _are_given(suspects, ask)
    if sum(given) > _MAX_GIVEN_SHARE * len(given):
        return []
    return [
        SweptSample(suspect.sample_id, Intervention.UNLEARNT, None)
        for suspect, is_given in zip(suspects, given, strict=True)
        if not is_given
    ]


def _are_given(exhibits: Sequence[Exhibit], ask: Interrogator) -> list[bool]:
    replies = ask.replies(exhibits, [exhibit.answer for exhibit in exhibits])
    return [reply.is_given for reply in replies]
