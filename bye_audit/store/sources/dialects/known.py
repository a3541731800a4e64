"""The dialects that come with the tool, and by what their records are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bye_audit.store.sources.dialects.base import Dialect
from bye_audit.store.sources.dialects.turns import NAMES, read_turns


def _turns_of(record: object) -> list[Any]:
    """Give the turns of a record; none if it has no list of them."""
    if not isinstance(record, Mapping):
        return []
    lists = (record[key] for key in NAMES.turns if isinstance(record.get(key), list))
    return next(lists, [])


def _has_turns(record: object, *keys: str) -> bool:
    """Tell whether all turns of a record have these names."""
    turns = _turns_of(record)
    return bool(turns) and all(
        isinstance(turn, Mapping) and all(key in turn for key in keys) for turn in turns
    )


def _parts_of(record: object) -> list[Any]:
    """Give the parts of all turns that are written as lists of parts."""
    contents = [turn.get("content") for turn in _turns_of(record) if isinstance(turn, Mapping)]
    return [part for content in contents if isinstance(content, list) for part in content]


def _is_packed(record: object) -> bool:
    return isinstance(record, list) and bool(record) and all(map(_turns_of, record))


def _is_internvl(record: object) -> bool:
    sizes = {"width", "height", "width_list", "height_list"}
    return _has_turns(record, "from") and isinstance(record, Mapping) and bool(sizes & set(record))


def _is_bedrock(record: object) -> bool:
    version = record.get("schemaVersion") if isinstance(record, Mapping) else None
    return isinstance(version, str) and version.startswith("bedrock-conversation")


def _is_openai(record: object) -> bool:
    return any(isinstance(part, Mapping) and "image_url" in part for part in _parts_of(record))


def _is_trl(record: object) -> bool:
    if not isinstance(record, Mapping):
        return False
    is_split = isinstance(record.get("prompt"), list) and isinstance(record.get("completion"), list)
    parts = (part for part in _parts_of(record) if isinstance(part, Mapping))
    return is_split or any(part.get("type") == "image" for part in parts)


def _is_llava(record: object) -> bool:
    return (
        isinstance(record, Mapping)
        and isinstance(record.get("conversations"), list)
        and _has_turns(record, "from", "value")
        and "images" not in record
    )


def _is_ms_swift(record: object) -> bool:
    if not isinstance(record, Mapping):
        return False
    has_columns = isinstance(record.get("query"), str) and isinstance(record.get("response"), str)
    is_paired = isinstance(record.get("conversation"), list)
    own = {"objects", "rejected_response", "rejected_messages", "label"} & set(record)
    return has_columns or is_paired or bool(own and _has_turns(record, "role", "content"))


def _is_alpaca(record: object) -> bool:
    return (
        isinstance(record, Mapping)
        and isinstance(record.get("instruction"), str)
        and isinstance(record.get("output"), str)
    )


def _is_sharegpt(record: object) -> bool:
    return _has_turns(record, "from", "value") or _has_turns(record, "role", "content")


def _is_column(record: object) -> bool:
    return isinstance(record, Mapping) and any(
        isinstance(record.get(key), str) for key in (*NAMES.answer, *NAMES.caption)
    )


# Those that others are a special case of come last.
KNOWN = (
    Dialect(name="bedrock", title="Amazon Bedrock", fits=_is_bedrock, read=read_turns),
    Dialect(name="qwen-vl", title="Qwen-VL, packed", fits=_is_packed, read=read_turns),
    Dialect(name="internvl", title="InternVL", fits=_is_internvl, read=read_turns),
    Dialect(name="openai", title="OpenAI chat", fits=_is_openai, read=read_turns),
    Dialect(name="trl", title="TRL", fits=_is_trl, read=read_turns),
    Dialect(name="ms-swift", title="ms-swift", fits=_is_ms_swift, read=read_turns),
    Dialect(name="llava", title="LLaVA", fits=_is_llava, read=read_turns),
    Dialect(name="sharegpt", title="ShareGPT", fits=_is_sharegpt, read=read_turns),
    Dialect(name="alpaca", title="Alpaca", fits=_is_alpaca, read=read_turns),
    Dialect(
        name="columns", title="question-and-answer or caption", fits=_is_column, read=read_turns
    ),
)

ANY = Dialect(name="any", title="turns of any kind", fits=lambda _: False, read=read_turns)
"""What records are read as that are of no known dialect."""
