"""One source record, whatever its dialect, as messages and references to images.

The dialects differ in names only, so that one reader of records serves every container: LLaVA and
ShareGPT (``conversations`` of ``from`` and ``value``), OpenAI and TRL (``messages`` of ``role`` and
``content``, text or a list of parts), and plain question and answer columns. Images are named by
``image`` or ``images``, or sit inside the content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bye_audit.schema import IMAGE_PLACEHOLDER, QuarantineCode

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
_TURN_LIST_KEYS = ("conversations", "messages", "conversation", "texts")
_TEXT_KEYS = ("value", "content", "text")
_IMAGE_KEYS = ("images", "image")
_QUESTION_KEYS = ("question", "query", "prompt", "instruction", "user")
_ANSWER_KEYS = ("answer", "response", "completion", "output", "assistant")
_MAX_TURNS = 1000


class BadRecordError(Exception):
    """Why one record cannot be a sample; never leaves ingest."""

    def __init__(self, code: QuarantineCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class ImageReference:
    """Where a record says its image is: a path or ``data:`` URL in ``text``, or bytes."""

    text: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Conversation:
    """What a record says, with one ``<image>`` in the text where each image belongs."""

    source_id: str | None
    messages: list[dict[str, str]]
    images: list[ImageReference]


def read_conversation(record: object) -> Conversation:
    """Take a record apart.

    Parameters
    ----------
    record
        What the container holds: parsed JSON, or a row of a Parquet file.

    Raises
    ------
    BadRecordError
        If it is no conversation with a question and an answer, or if its images do not match
        their placeholders.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError(
            QuarantineCode.NOT_AN_OBJECT,
            f"the record is of type {type(record).__name__}, not an object",
        )
    images: list[ImageReference] = []
    messages = _read_messages(record, images)
    images = _outer_images(record, images)
    _check_turns(messages)
    _place_images(messages, len(images))
    source_id = _source_id(record)
    _check_text(source_id, *(message["content"] for message in messages))
    return Conversation(source_id, messages, images)


def _read_messages(record: Mapping[str, Any], images: list[ImageReference]) -> list[dict[str, str]]:
    turns = next((record[key] for key in _TURN_LIST_KEYS if record.get(key) is not None), None)
    if turns is None:
        turns = _question_and_answer(record)
    if isinstance(turns, Mapping):
        # Parquet files keep some lists of structs as a struct of lists.
        turns = _rows_of_columns(turns)
    if not isinstance(turns, list) or not turns:
        raise _bad_conversation("there are no turns")
    if len(turns) > _MAX_TURNS:
        raise _bad_conversation(f"{len(turns)} turns are more than {_MAX_TURNS}")
    messages = []
    system = record.get("system")
    if isinstance(system, str) and system:
        messages.append({"role": "system", "content": system})
    for number, turn in enumerate(turns):
        messages += _read_turn(number, turn, images)
    return messages


def _read_turn(number: int, turn: object, images: list[ImageReference]) -> list[dict[str, str]]:
    if not isinstance(turn, Mapping):
        raise _bad_conversation(f"turn {number} is of type {type(turn).__name__}, not an object")
    said = turn.get("from", turn.get("role"))
    if (
        said is None
        and isinstance(turn.get("user"), str)
        and isinstance(turn.get("assistant"), str)
    ):
        return [{"role": role, "content": turn[role]} for role in ("user", "assistant")]
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise _bad_conversation(f"turn {number} is said by {_short(said)}")
    content = next((turn[key] for key in _TEXT_KEYS if turn.get(key) is not None), None)
    if isinstance(content, list):
        content = _join_parts(number, content, images)
    if not isinstance(content, str):
        raise _bad_conversation(f"turn {number} has no text")
    return [{"role": role, "content": content}]


def _join_parts(number: int, parts: list[Any], images: list[ImageReference]) -> str:
    """Write a list of text and image parts as one text with placeholders."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url", "input_image"):
            reference = _part_reference(part)
            if reference is not None:
                images.append(reference)
            texts.append(IMAGE_PLACEHOLDER)
        else:
            raise _bad_conversation(f"turn {number} has a part of type {_short(kind)}")
    return "".join(texts)


def _part_reference(part: Mapping[str, Any]) -> ImageReference | None:
    """Find the image inside a part; None where the part only marks the place of one."""
    for key in ("image_url", "image", "url", "path"):
        value = part.get(key)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value is not None:
            return _reference(value)
    return None


def _outer_images(record: Mapping[str, Any], inner: list[ImageReference]) -> list[ImageReference]:
    value = next((record[key] for key in _IMAGE_KEYS if record.get(key) is not None), None)
    outer = [] if value is None else value if isinstance(value, list) else [value]
    if outer and inner:
        raise BadRecordError(
            QuarantineCode.BAD_IMAGE_FIELD, "images are named both beside and inside the messages"
        )
    return inner or [_reference(item) for item in outer]


def _reference(value: object) -> ImageReference:
    if isinstance(value, str) and value:
        return ImageReference(text=value)
    if isinstance(value, bytes):
        return ImageReference(content=value)
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return ImageReference(text=path if isinstance(path, str) else None, content=content)
        if isinstance(path, str) and path:
            return ImageReference(text=path)
    raise BadRecordError(QuarantineCode.BAD_IMAGE_FIELD, f"an image is given as {_short(value)}")


def _question_and_answer(record: Mapping[str, Any]) -> list[Any] | None:
    question = next((record[k] for k in _QUESTION_KEYS if record.get(k) is not None), None)
    answer = next((record[k] for k in _ANSWER_KEYS if record.get(k) is not None), None)
    if isinstance(question, str) and isinstance(answer, str):
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if isinstance(question, list) and isinstance(answer, list):
        return [*question, *answer]
    return None


def _rows_of_columns(columns: Mapping[str, Any]) -> list[Any]:
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    if not lists or len({len(values) for values in lists.values()}) != 1:
        raise _bad_conversation("the turns are not a list")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _check_turns(messages: list[dict[str, str]]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise _bad_conversation("there is no answer")
    if "user" not in roles[: roles.index("assistant")]:
        raise _bad_conversation("there is no question before the first answer")
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and not message["content"].strip():
            raise _bad_conversation(f"the answer in turn {number} is empty")
        if message["role"] == "assistant" and IMAGE_PLACEHOLDER in message["content"]:
            raise BadRecordError(
                QuarantineCode.PLACEHOLDER_MISMATCH, f"the answer in turn {number} has an <image>"
            )


def _place_images(messages: list[dict[str, str]], num_images: int) -> None:
    """Check placeholders against images; several images without any come before the question."""
    placeholders = sum(message["content"].count(IMAGE_PLACEHOLDER) for message in messages)
    if placeholders == num_images or (placeholders == 0 and num_images == 1):
        return
    if placeholders == 0:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = IMAGE_PLACEHOLDER * num_images + first["content"]
        return
    raise BadRecordError(
        QuarantineCode.PLACEHOLDER_MISMATCH,
        f"{placeholders} <image> placeholders for {num_images} images",
    )


def _source_id(record: Mapping[str, Any]) -> str | None:
    value = record.get("id")
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def _check_text(*texts: str | None) -> None:
    """Refuse lone surrogates, which JSON can spell and UTF-8 cannot."""
    for text in texts:
        if text is not None:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BadRecordError(
                    QuarantineCode.BAD_JSON, "a text has half of a surrogate pair"
                ) from None


def _bad_conversation(detail: str) -> BadRecordError:
    return BadRecordError(QuarantineCode.BAD_CONVERSATION, detail)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
