"""Records as most dialects write them, which differ in names only.

LLaVA and ShareGPT have ``conversations`` of ``from`` and ``value``, OpenAI and TRL ``messages`` of
``role`` and ``content``, text or a list of parts, Alpaca and ms-swift columns for question and
answer. Images are named by ``image`` or ``images``, or sit inside the content. One reader takes
them all, so that a file which mixes them, as many do, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from bye_audit.schema import IMAGE_PLACEHOLDER, QuarantineCode
from bye_audit.store.sources.conversation import (
    BadRecordError,
    Conversation,
    ImageReference,
    bad_conversation,
    make_conversation,
    shorten,
)

ROLES = {
    "human": "user",
    "user": "user",
    # What a tool gives back is said to the model.
    "observation": "user",
    "tool": "user",
    "tool_response": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
}
_MAX_TURNS = 1000
_OTHER_MEDIA = {"video": "a video", "audio": "a sound"}


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a dialect calls the parts of a record; the first that a record has counts."""

    turns: tuple[str, ...] = ("conversations", "messages", "conversation", "texts")
    role: tuple[str, ...] = ("from", "role")
    text: tuple[str, ...] = ("value", "content", "text")
    images: tuple[str, ...] = ("images", "image", "image_path", "file_name")
    videos: tuple[str, ...] = ("videos", "video")
    audios: tuple[str, ...] = ("audios", "audio")
    system: tuple[str, ...] = ("system",)
    question: tuple[str, ...] = ("question", "query", "prompt", "instruction", "user")
    input: tuple[str, ...] = ("input",)
    """More of the question, which follows it on a new line."""
    answer: tuple[str, ...] = ("answer", "response", "completion", "output", "assistant")
    history: tuple[str, ...] = ("history",)
    """Earlier pairs of question and answer."""
    caption: tuple[str, ...] = ("caption", "text")
    """What is said of an image that nobody asks about."""
    roles: Mapping[str, str] = field(default_factory=lambda: dict(ROLES))
    """Ours by the data's own, in small letters."""


NAMES = Names()


def read_turns(record: object, names: Names = NAMES) -> Conversation:
    """Take a record apart.

    Parameters
    ----------
    record
        What the container holds: parsed JSON, or a row of a table. A list of records is one packed
        sample: their turns follow each other.
    names
        What its parts are called.

    Raises
    ------
    BadRecordError
        If it is no conversation with a question and an answer, or if its images do not match
        their placeholders.
    """
    parts: list[Any] = record if _is_packed(record, names) else [record]
    messages: list[dict[str, str]] = []
    images: list[ImageReference] = []
    others: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping):
            raise BadRecordError(
                QuarantineCode.NOT_AN_OBJECT,
                f"the record is of type {type(part).__name__}, not an object",
            )
        reader = _Reader(names)
        messages += reader.read(part)
        images += reader.images
        others += reader.others
    return make_conversation(parts[0], messages, images, _list_others(others))


def _is_packed(record: object, names: Names) -> TypeGuard[list[Any]]:
    return (
        isinstance(record, list)
        and bool(record)
        and all(isinstance(part, Mapping) and _first(part, names.turns) for part in record)
    )


def _list_others(others: list[str]) -> str | None:
    return " and ".join(dict.fromkeys(others)) or None


def _first(record: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """Give what a record has under the first of some names; None where it has none of them."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


class _Reader:
    """The reading of one record; images are found in the order of their placeholders."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.images: list[ImageReference] = []
        self.others: list[str] = []

    def read(self, record: Mapping[str, Any]) -> list[dict[str, str]]:
        messages = list(self._messages(record))
        outer = _as_list(_first(record, self._names.images))
        if outer and self.images:
            raise BadRecordError(
                QuarantineCode.BAD_IMAGE_FIELD,
                "images are named both beside and inside the messages",
            )
        self.images = self.images or [read_reference(item) for item in outer]
        for kind, keys in (("video", self._names.videos), ("audio", self._names.audios)):
            if _first(record, keys):
                self.others.append(_OTHER_MEDIA[kind])
        return messages

    def _messages(self, record: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        names = self._names
        system = _first(record, names.system)
        if isinstance(system, list):
            system = self._join_parts("the system prompt", system)
        if isinstance(system, str) and system:
            yield {"role": "system", "content": system}
        turns = _first(record, names.turns)
        question, answer = _first(record, names.question), _first(record, names.answer)
        caption = _first(record, names.caption)
        if turns is None and isinstance(answer, str):
            yield from self._columns(record, question, answer)
            return
        if turns is None and isinstance(caption, str) and _first(record, names.images):
            yield from _as_exchange(IMAGE_PLACEHOLDER, caption)
            return
        if turns is None and isinstance(question, list) and isinstance(answer, list):
            turns = [*question, *answer]
        if isinstance(turns, Mapping):
            # Parquet files keep some lists of structs as a struct of lists.
            turns = _rows_of_columns(turns)
        if not isinstance(turns, list) or not turns:
            raise bad_conversation("there are no turns")
        if len(turns) > _MAX_TURNS:
            raise bad_conversation(f"{len(turns)} turns are more than {_MAX_TURNS}")
        for number, turn in enumerate(turns):
            yield from self._turn(f"turn {number}", turn)

    def _columns(
        self, record: Mapping[str, Any], question: object, answer: str
    ) -> Iterator[dict[str, str]]:
        """Read a record that has columns for question and answer."""
        more = _first(record, self._names.input)
        asked = [text for text in (question, more) if isinstance(text, str) and text]
        if not asked:
            raise bad_conversation("there is no question")
        for pair in _as_list(_first(record, self._names.history)):
            yield from _as_exchange(*_pair(pair))
        yield from _as_exchange("\n".join(asked), answer)

    def _turn(self, where: str, turn: object) -> Iterator[dict[str, str]]:
        if not isinstance(turn, Mapping):
            raise bad_conversation(f"{where} is of type {type(turn).__name__}, not an object")
        said = _first(turn, self._names.role)
        asked, answered = turn.get("user", turn.get("human")), turn.get("assistant")
        if said is None and isinstance(asked, str) and isinstance(answered, str):
            yield from _as_exchange(asked, answered)
            return
        role = self._names.roles.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise bad_conversation(f"{where} is said by {shorten(said)}")
        content = _first(turn, self._names.text)
        if isinstance(content, list):
            content = self._join_parts(where, content)
        if not isinstance(content, str):
            raise bad_conversation(f"{where} has no text")
        yield {"role": role, "content": content}

    def _join_parts(self, where: str, parts: list[Any]) -> str:
        """Write a list of text and image parts as one text with placeholders."""
        return "".join(self._part(where, part) for part in parts)

    def _part(self, where: str, part: object) -> str:
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            raise bad_conversation(f"{where} has a part of type {type(part).__name__}")
        kind = _kind_of_part(part)
        if kind == "text" and isinstance(part.get("text"), str):
            return str(part["text"])
        if kind == "image":
            reference = _part_reference(part)
            if reference is not None:
                self.images.append(reference)
            return IMAGE_PLACEHOLDER
        if kind in _OTHER_MEDIA:
            self.others.append(_OTHER_MEDIA[kind])
            return f"<{kind}>"
        raise bad_conversation(f"{where} has a part of type {shorten(part.get('type'))}")


def _kind_of_part(part: Mapping[str, Any]) -> str | None:
    """Tell what a part of a content is: by its type, or in Bedrock's records by its only name."""
    kinds = ("text", "image", *_OTHER_MEDIA)
    named = part.get("type")
    if named is None:
        return next((kind for kind in kinds if part.get(kind) is not None), None)
    if not isinstance(named, str):
        return None
    kind = named.removeprefix("input_").removesuffix("_url")
    return kind if kind in kinds else None


def _part_reference(part: Mapping[str, Any]) -> ImageReference | None:
    """Find the image inside a part; None where the part only marks the place of one."""
    for key in ("image_url", "image", "url", "path"):
        value = part.get(key)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value is not None:
            return read_reference(value)
    return None


def read_reference(value: object) -> ImageReference:
    """Take apart what names or holds one image.

    Raises
    ------
    BadRecordError
        If it does neither.
    """
    if isinstance(value, str) and value:
        return ImageReference(text=value)
    if isinstance(value, bytes):
        return ImageReference(content=value)
    if isinstance(value, Mapping):
        if isinstance(value.get("source"), Mapping):
            return _bedrock_reference(value)
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return ImageReference(text=path if isinstance(path, str) else None, content=content)
        if isinstance(path, str) and path:
            return ImageReference(text=path)
    raise BadRecordError(QuarantineCode.BAD_IMAGE_FIELD, f"an image is given as {shorten(value)}")


def _bedrock_reference(image: Mapping[str, Any]) -> ImageReference:
    source = image["source"]
    place = source.get("s3Location")
    if isinstance(place, Mapping) and isinstance(place.get("uri"), str):
        return ImageReference(text=place["uri"])
    if isinstance(source.get("bytes"), str):
        return ImageReference(text=f"data:image/{image.get('format')};base64,{source['bytes']}")
    raise BadRecordError(QuarantineCode.BAD_IMAGE_FIELD, f"an image is given as {shorten(source)}")


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _pair(value: object) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value):
        return value[0], value[1]
    raise bad_conversation(f"the history has {shorten(value)}, which is no question and answer")


def _as_exchange(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _rows_of_columns(columns: Mapping[str, Any]) -> list[Any]:
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    if not lists or len({len(values) for values in lists.values()}) != 1:
        raise bad_conversation("the turns are not a list")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
