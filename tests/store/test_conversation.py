"""Records of every dialect become the same messages; what cannot is told why."""

from __future__ import annotations

from typing import Any

import pytest

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.conversation import BadRecordError, ImageReference
from bye_audit.store.sources.dialects.turns import read_turns

ASK = {"from": "human", "value": "<image>\nwhat?"}
TELL = {"from": "gpt", "value": "a star"}
MESSAGES = [
    {"role": "user", "content": "<image>\nwhat?"},
    {"role": "assistant", "content": "a star"},
]


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.png", "conversations": [ASK, TELL]},
        {"image": ["a.png"], "conversations": [ASK, TELL]},
        {"images": ["a.png"], "messages": MESSAGES},
        {"images": [{"path": "a.png", "bytes": None}], "messages": MESSAGES},
        {"image": "a.png", "conversations": [ASK, {"from": "gpt", "text": "a star"}]},
        {"image": "a.png", "conversations": [{"user": "<image>\nwhat?", "assistant": "a star"}]},
        {"image": "a.png", "question": "<image>\nwhat?", "answer": "a star"},
        {"image": "a.png", "prompt": [MESSAGES[0]], "completion": [MESSAGES[1]]},
        {"image": "a.png", "messages": {"role": ["user", "assistant"],
                                        "content": ["<image>\nwhat?", "a star"]}},
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "a.png"}},
            {"type": "text", "text": "\nwhat?"}]}, MESSAGES[1]]},
        {"images": ["a.png"], "messages": [{"role": "user", "content": [
            {"type": "image", "text": None}, {"type": "text", "text": "\nwhat?"}]}, MESSAGES[1]]},
    ],
    ids=["llava", "image-list", "sharegpt", "struct", "internvl", "swift", "columns", "trl-prompt",
         "struct-of-lists", "openai", "trl"],
)  # fmt: skip
def test_dialects_agree(record: dict[str, Any]) -> None:
    conversation = read_turns(record)
    assert conversation.messages == MESSAGES
    assert conversation.images == [ImageReference(text="a.png")]


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), ("7", "7"), (None, None), ({"a": 1}, '{"a": 1}'), (0, "0")]
)
def test_ids_of_any_type_become_text(value: object, text: str | None) -> None:
    assert read_turns({"id": value, "conversations": [
        {"from": "human", "value": "?"}, TELL]}).source_id == text  # fmt: skip


def test_turns_and_the_system_prompt_are_kept_in_order() -> None:
    record = {"system": "Be brief.", "image": "a.png", "conversations": [ASK, TELL, TELL]}
    roles = [message["role"] for message in read_turns(record).messages]
    assert roles == ["system", "user", "assistant", "assistant"]


def test_text_alone_is_a_conversation() -> None:
    record = {"conversations": [{"from": "human", "value": "hi"}, TELL]}
    assert read_turns(record).images == []


def test_several_images_without_placeholders_come_before_the_question() -> None:
    record = {"images": ["a", "b"], "messages": [{"role": "user", "content": "?"}, MESSAGES[1]]}
    assert read_turns(record).messages[0]["content"] == "<image><image>?"


Q = QuarantineCode


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (5, Q.NOT_AN_OBJECT),
        ([ASK, TELL], Q.NOT_AN_OBJECT),
        (None, Q.NOT_AN_OBJECT),
        ({}, Q.BAD_CONVERSATION),
        ({"conversations": []}, Q.BAD_CONVERSATION),
        ({"conversations": "hello"}, Q.BAD_CONVERSATION),
        ({"conversations": ["hello"]}, Q.BAD_CONVERSATION),
        ({"conversations": {"a": 1}}, Q.BAD_CONVERSATION),
        ({"conversations": [ASK]}, Q.BAD_CONVERSATION),
        ({"conversations": [TELL, ASK]}, Q.BAD_CONVERSATION),
        ({"image": "a", "conversations": [ASK, {"from": "gpt", "value": " "}]}, Q.BAD_CONVERSATION),
        ({"image": "a", "conversations": [ASK, {"from": "gpt"}]}, Q.BAD_CONVERSATION),
        ({"image": "a", "conversations": [ASK, {"from": "x", "value": "a"}]}, Q.BAD_CONVERSATION),
        ({"image": "a", "conversations": [ASK, {"from": [], "value": "a"}]}, Q.BAD_CONVERSATION),
        ({"image": "a", "conversations": [ASK, {"from": "gpt", "value": 5}]}, Q.BAD_CONVERSATION),
        ({"conversations": [ASK, TELL]}, Q.PLACEHOLDER_MISMATCH),
        ({"image": ["a", "b"], "conversations": [ASK, TELL]}, Q.PLACEHOLDER_MISMATCH),
        (
            {"image": "a", "conversations": [ASK, {"from": "gpt", "value": "<image>"}]},
            Q.PLACEHOLDER_MISMATCH,
        ),
        ({"image": 5, "conversations": [ASK, TELL]}, Q.BAD_IMAGE_FIELD),
        ({"image": "", "conversations": [ASK, TELL]}, Q.BAD_IMAGE_FIELD),
        ({"image": [None], "conversations": [ASK, TELL]}, Q.BAD_IMAGE_FIELD),
        ({"image": {"bytes": None, "path": None}, "conversations": [ASK, TELL]}, Q.BAD_IMAGE_FIELD),
        ({"id": "\ud800", "image": "a", "conversations": [ASK, TELL]}, Q.BAD_JSON),
        ({"image": "a", "conversations": [ASK, {"from": "gpt", "value": "\udfff"}]}, Q.BAD_JSON),
    ],
)
def test_bad_records_have_a_code(record: object, code: QuarantineCode) -> None:
    with pytest.raises(BadRecordError) as caught:
        read_turns(record)
    assert caught.value.code == code
    assert caught.value.detail
