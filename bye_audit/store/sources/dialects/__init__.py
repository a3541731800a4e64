"""Which dialects there are, and which one records are of.

A dialect tells where records come from. Most differ in names only and share one reader. Another
package adds its own under the entry point ``bye_audit.dialects``: a `Dialect` each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bye_audit.errors import ConfigError
from bye_audit.store.sources.dialects.base import Dialect
from bye_audit.store.sources.dialects.known import ANY, KNOWN
from bye_audit.store.sources.dialects.llama_factory import LLAMA_FACTORY, llama_factory
from bye_audit.store.sources.plugins import load_plugins

ENTRY_POINTS = "bye_audit.dialects"


@cache
def dialects() -> dict[str, Dialect]:
    """Give all dialects by name, other packages' first, as they are the more special."""
    return {
        each.name: each
        for each in (*load_plugins(ENTRY_POINTS, Dialect), *KNOWN, llama_factory({}), ANY)
    }


def find_dialect(name: str, options: Mapping[str, Any] | None = None) -> Dialect:
    """Give a dialect by its name and what the data's catalog says of it.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name == LLAMA_FACTORY:
        return llama_factory(options or {})
    if name not in dialects():
        raise ConfigError(
            f"There is no source format {name!r}.",
            hint="Install the package it came with again.",
        )
    return dialects()[name]


def recognise_dialect(records: Sequence[object]) -> Dialect:
    """Give the dialect that most of the records are of.

    Where none is known they are read as any records with turns, which says what is wrong with each.
    """
    # A record is of the first dialect that it fits, the most special one.
    first = (next((each for each in dialects().values() if each.fits(r)), ANY) for r in records)
    names = Counter(each.name for each in first)
    return max(dialects().values(), key=lambda each: names[each.name]) if names else ANY
