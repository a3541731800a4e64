"""Records as each tool documents them are known for what they are, and say the same."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.sources import draw_png

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.conversation import BadRecordError, ImageReference
from bye_audit.store.sources.dialects import dialects, find_dialect, recognise_dialect
from bye_audit.store.sources.dialects.turns import read_turns

ASK, TELL = "<image>\nwhat?", "a star"
FROM_VALUE = [{"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]
ROLE_CONTENT = [{"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}]
PAYLOAD = base64.b64encode(draw_png(1)[0]).decode()
URL = f"data:image/png;base64,{PAYLOAD}"
MARKED = [{"type": "image"}, {"type": "text", "text": "\nwhat?"}]

# One record in the form that each tool's own documentation gives.
RECORDS: dict[str, list[dict[str, Any] | list[Any]]] = {
    "llava": [{"id": 7, "image": "a.png", "conversations": FROM_VALUE}],
    "sharegpt": [
        {"conversations": FROM_VALUE, "images": ["a.png"], "system": "", "tools": ""},
        {"messages": ROLE_CONTENT, "images": ["a.png"]},
    ],
    "alpaca": [{"instruction": ASK, "input": "", "output": TELL, "images": ["a.png"]}],
    "ms-swift": [
        {"query": ASK, "response": TELL, "images": ["a.png"]},
        {"messages": ROLE_CONTENT, "images": ["a.png"], "objects": {"ref": [], "bbox": []}},
        {"conversation": [{"human": ASK, "assistant": TELL}], "images": ["a.png"]},
    ],
    "qwen-vl": [[{"image": "a.png", "conversations": FROM_VALUE}]],
    "internvl": [
        {"id": 0, "image": "a.png", "width": 5, "height": 6, "conversations": FROM_VALUE},
        {
            "image": ["a.png"],
            "width_list": [5],
            "height_list": [6],
            "conversations": [FROM_VALUE[0], {"from": "gpt", "text": TELL}],
        },
    ],
    "openai": [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.png"}},
                        {"type": "text", "text": "\nwhat?"},
                    ],
                },
                {"role": "assistant", "content": TELL},
            ]
        }
    ],
    "bedrock": [
        {
            "schemaVersion": "bedrock-conversation-2024",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "image": {
                                "format": "png",
                                "source": {"s3Location": {"uri": "a.png", "bucketOwner": "1"}},
                            }
                        },
                        {"text": "\nwhat?"},
                    ],
                },
                {"role": "assistant", "content": [{"text": TELL}]},
            ],
        }
    ],
    "trl": [
        {
            "images": ["a.png"],
            "messages": [
                {"role": "user", "content": MARKED},
                {"role": "assistant", "content": [{"type": "text", "text": TELL}]},
            ],
        },
        {
            "image": "a.png",
            "prompt": [{"role": "user", "content": MARKED}],
            "completion": [{"role": "assistant", "content": TELL}],
        },
    ],
    "columns": [{"image": "a.png", "question": ASK, "answer": TELL}],
}


@pytest.mark.parametrize("name", RECORDS)
def test_each_tools_records_are_known_and_say_the_same(name: str) -> None:
    for record in RECORDS[name]:
        dialect = recognise_dialect([record])
        assert dialect.name == name
        conversation = dialect.read(record)
        assert conversation.messages == ROLE_CONTENT
        assert conversation.images == [ImageReference(text="a.png")]
        assert conversation.unscorable is None


def test_every_dialect_has_a_record_here() -> None:
    # One is known by its catalog, the other is what remains.
    assert {*RECORDS, "llama-factory", "any"} == set(dialects())


def test_the_majority_decides_and_nothing_known_is_read_all_the_same() -> None:
    mixed = [RECORDS["llava"][0], {}, 5, RECORDS["openai"][0], RECORDS["llava"][0]]
    assert recognise_dialect(mixed).name == "llava"
    assert recognise_dialect([{}, 5]).name == recognise_dialect([]).name == "any"


def test_embedded_bytes_of_bedrock_are_an_image() -> None:
    image = {"format": "png", "source": {"bytes": PAYLOAD}}
    turns = [
        {"role": "user", "content": [{"image": image}, {"text": "?"}]},
        {"role": "assistant", "content": [{"text": TELL}]},
    ]
    record = {"system": [{"text": "Be brief."}], "messages": turns}
    conversation = read_turns(record)
    assert conversation.images == [ImageReference(text=URL)]
    assert conversation.messages[0] == {"role": "system", "content": "Be brief."}


def test_a_packed_record_is_one_conversation() -> None:
    second = [{"from": "human", "value": "and now? <image>"}, {"from": "gpt", "value": "a cross"}]
    packed = [
        {"id": "first", "image": "a.png", "conversations": FROM_VALUE},
        {"images": ["b.png"], "conversations": second},
        {"conversations": [{"from": "human", "value": "bye"}, {"from": "gpt", "value": "bye"}]},
    ]
    conversation = read_turns(packed)
    assert [message["content"] for message in conversation.messages] == [
        ASK, TELL, "and now? <image>", "a cross", "bye", "bye",
    ]  # fmt: skip
    assert conversation.images == [ImageReference(text="a.png"), ImageReference(text="b.png")]
    assert conversation.source_id == "first"


def test_history_comes_first_and_input_follows_the_instruction() -> None:
    record = {
        "instruction": "Look:",
        "input": ASK,
        "output": TELL,
        "image": "a.png",
        "history": [["hello", "hi"], ["how?", "well"]],
    }
    said = [message["content"] for message in read_turns(record).messages]
    assert said == ["hello", "hi", "how?", "well", f"Look:\n{ASK}", TELL]
    for bad in ([["alone"]], [5], [["a", 5]]):
        with pytest.raises(BadRecordError) as caught:
            read_turns({**record, "history": bad})
        assert caught.value.code == QuarantineCode.BAD_CONVERSATION


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"videos": ["a.mp4"]}, "a video"),
        ({"video": "a.mp4", "audios": ["a.wav"]}, "a video and a sound"),
        ({"videos": [], "audios": None}, None),
    ],
)
def test_what_is_no_image_is_kept_and_named(more: dict[str, Any], reason: str | None) -> None:
    record = {"image": "a.png", "conversations": FROM_VALUE, **more}
    assert read_turns(record).unscorable == reason


def test_a_video_inside_the_messages_keeps_its_place() -> None:
    content = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": " what moves?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]
    conversation = read_turns({"messages": turns})
    assert conversation.messages[0]["content"] == "<video> what moves?"
    assert conversation.unscorable == "a video"


def test_tools_speak_to_the_model_and_calls_are_its_own() -> None:
    turns = [
        *FROM_VALUE,
        {"from": "function_call", "value": "zoom()"},
        {"from": "observation", "value": "done"},
        {"from": "gpt", "value": "now a cross"},
    ]
    roles = [
        message["role"] for message in read_turns({"image": "a", "conversations": turns}).messages
    ]
    assert roles == ["user", "assistant", "assistant", "user", "assistant"]


def test_a_catalog_may_give_everything_another_name() -> None:
    options = {
        "columns": {"messages": "dialog", "images": "pics", "system": "sys"},
        "tags": {
            "role_tag": "speaker",
            "content_tag": "says",
            "user_tag": "Q",
            "assistant_tag": "A",
        },
    }
    record = {
        "sys": "Be brief.",
        "dialog": [{"speaker": "Q", "says": ASK}, {"speaker": "A", "says": TELL}],
        "pics": ["a.png"],
    }
    conversation = find_dialect("llama-factory", options).read(record)
    assert conversation.messages == [{"role": "system", "content": "Be brief."}, *ROLE_CONTENT]
    assert conversation.images == [ImageReference(text="a.png")]


@pytest.mark.parametrize("options", [{}, {"columns": 5, "tags": ["x"]}, {"columns": {"images": 7}}])
def test_a_catalog_that_says_nothing_of_use_changes_nothing(options: dict[str, Any]) -> None:
    record = RECORDS["sharegpt"][0]
    assert find_dialect("llama-factory", options).read(record) == read_turns(record)
