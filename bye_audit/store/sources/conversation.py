"""What every dialect makes of a record: messages and references to images, or a fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bye_audit.schema import IMAGE_PLACEHOLDER, QuarantineCode


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
    unscorable: str | None = None
    """What it holds that no model is asked about, such as a video; None if there is nothing."""


def make_conversation(
    record: Mapping[str, Any],
    messages: list[dict[str, str]],
    images: list[ImageReference],
    unscorable: str | None = None,
) -> Conversation:
    """Check what was read of a record.

    Parameters
    ----------
    record
        The record, for its id.
    messages
        What is said, by role ``system``, ``user`` or ``assistant``.
    images
        In the order of their placeholders.
    unscorable
        What else it holds.

    Raises
    ------
    BadRecordError
        If there is no question or no answer, or the images do not match their placeholders.
    """
    _check_turns(messages)
    _place_images(messages, len(images))
    source_id = _source_id(record)
    _check_text(source_id, *(message["content"] for message in messages))
    return Conversation(source_id, messages, images, unscorable)


def bad_conversation(detail: str) -> BadRecordError:
    """Say why a record is no conversation."""
    return BadRecordError(QuarantineCode.BAD_CONVERSATION, detail)


def shorten(value: object, limit: int = 60) -> str:
    """Show a value of a record in a fault."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _check_turns(messages: list[dict[str, str]]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise bad_conversation("there is no answer")
    if "user" not in roles[: roles.index("assistant")]:
        raise bad_conversation("there is no question before the first answer")
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and not message["content"].strip():
            raise bad_conversation(f"the answer in turn {number} is empty")
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
