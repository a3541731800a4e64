"""LLaMA-Factory's own names: a ``dataset_info.json`` says what each dataset calls its parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bye_audit.store.sources.dialects.base import Dialect
from bye_audit.store.sources.dialects.turns import NAMES, ROLES, Names, read_turns

LLAMA_FACTORY = "llama-factory"
# Their word for a column, and ours.
_COLUMNS = {
    "messages": "turns",
    "images": "images",
    "videos": "videos",
    "audios": "audios",
    "system": "system",
    "prompt": "question",
    "query": "input",
    "response": "answer",
    "history": "history",
}
# Their word for who speaks, and ours.
_SPEAKERS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "user",
    "function_tag": "assistant",
    "system_tag": "system",
}


def llama_factory(options: Mapping[str, Any]) -> Dialect:
    """Make the dialect of one entry of a ``dataset_info.json``.

    Parameters
    ----------
    options
        The entry, of which ``columns`` and ``tags`` count. What it does not name is called as
        everywhere else.
    """
    columns, tags = _texts(options.get("columns")), _texts(options.get("tags"))
    renamed = {
        ours: (columns[theirs], *getattr(NAMES, ours))
        for theirs, ours in _COLUMNS.items()
        if theirs in columns
    }
    for tag, ours in (("role_tag", "role"), ("content_tag", "text")):
        if tag in tags:
            renamed[ours] = (tags[tag], *getattr(NAMES, ours))
    spoken = {tags[tag].lower(): role for tag, role in _SPEAKERS.items() if tag in tags}
    names = Names(**renamed, roles={**ROLES, **spoken})
    return Dialect(
        name=LLAMA_FACTORY,
        title="LLaMA-Factory",
        # Only its dataset_info.json tells that it is.
        fits=lambda _: False,
        read=partial(read_turns, names=names),
    )


def _texts(value: object) -> dict[str, str]:
    """Give the entries that name something; the file is as little to be trusted as the data."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): text for key, text in value.items() if isinstance(text, str) and text}
