"""What a dialect is: how the records of one tool are told from others', and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bye_audit.store.sources.conversation import Conversation


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The records of one tool, whatever container they lie in.

    Parameters
    ----------
    name
        What a user types after ``--format``.
    title
        What a user reads.
    fits
        Whether a record looks like one of this dialect and not like one of a more general one.
    read
        Takes a record apart; raises `BadRecordError` where that cannot be done.
    """

    name: str
    title: str
    fits: Callable[[object], bool]
    read: Callable[[object], Conversation]
