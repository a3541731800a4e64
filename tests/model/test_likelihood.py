from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.conversations import converse, draw_conversations

from bye_audit.mini import model_dir
from bye_audit.mini.scenes import CAPTION_PROMPT, draw_scene
from bye_audit.model.generation import generate_answers
from bye_audit.model.likelihood import (
    answer_log_likelihood,
    first_answer_logp,
    last_logits,
    read_replies,
)
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.prompts import Conversation


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


def test_likelihood_equals_token_by_token_arithmetic(vlm: VisionLanguageModel) -> None:
    conversation = draw_conversations(1)[0]
    encoding = vlm.encoder.encode(conversation)
    ids = torch.cat([encoding.inputs["input_ids"][0], torch.tensor(encoding.continuation_ids)])
    with torch.no_grad():
        logits = vlm.model(
            input_ids=ids[None], pixel_values=encoding.inputs["pixel_values"]
        ).logits[0]
    start = encoding.prompt_length
    by_hand = [
        logits[position - 1].double().log_softmax(-1)[ids[position]].item()
        for position in range(start, len(ids))
    ]
    found = answer_log_likelihood(vlm, [conversation])
    np.testing.assert_allclose(found, [np.mean(by_hand)], rtol=1e-5)


def test_batching_does_not_change_likelihoods(vlm: VisionLanguageModel) -> None:
    conversations = [
        *draw_conversations(4),
        converse(
            "A question of another length altogether?", "no", *draw_conversations(1)[0].images
        ),
    ]
    alone = answer_log_likelihood(vlm, conversations, batch_size=1)
    together = answer_log_likelihood(vlm, conversations, batch_size=5)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_only_the_first_answer_counts(vlm: VisionLanguageModel) -> None:
    first = draw_conversations(1)[0]
    more = [
        *first.messages,
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "xyzzy plugh"},
    ]
    longer = type(first)(more, first.images)
    found = answer_log_likelihood(vlm, [first, longer])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_a_question_without_answer_has_no_likelihood(vlm: VisionLanguageModel) -> None:
    found = answer_log_likelihood(vlm, [converse("What?", None), *draw_conversations(1)])
    assert np.isnan(found).tolist() == [True, False]


def test_batched_answers_are_those_given_one_by_one(vlm: VisionLanguageModel) -> None:
    image = draw_conversations(1)[0].images[0]
    conversations = [
        *draw_conversations(3),
        converse("What is the color of the large thing at the top left?", None, image),
    ]
    alone = [generate_answers(vlm, [c], max_new_tokens=5)[0] for c in conversations]
    together = generate_answers(vlm, conversations, max_new_tokens=5, batch_size=4)
    assert together == alone
    assert all("<" not in answer for answer in together)


def test_mean_first_and_least_likely_token_are_those_of_the_whole_sequence(
    vlm: VisionLanguageModel,
) -> None:
    [conversation] = draw_conversations(1)
    encoding = vlm.encoder.encode(conversation, "first")
    ids = torch.cat([encoding.inputs["input_ids"][0], torch.tensor(encoding.continuation_ids)])
    with torch.no_grad():
        logits = vlm.model(
            input_ids=ids[None], pixel_values=encoding.inputs["pixel_values"]
        ).logits[0]
    by_hand = [
        logits[position - 1].double().log_softmax(-1)[ids[position]].item()
        for position in range(encoding.prompt_length, len(ids))
    ]
    batch = vlm.encoder.collate([encoding], with_answers=True)
    [found] = first_answer_logp(last_logits(vlm, batch), [encoding])
    np.testing.assert_allclose(found, [np.mean(by_hand), by_hand[0], min(by_hand)], rtol=1e-5)


def test_an_answer_is_the_models_own_just_when_generating_gives_it() -> None:
    embedded = load_model(str(model_dir()))
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(3)]

    def answered(texts: list[str]) -> list[Conversation]:
        question = {"role": "user", "content": f"<image>\n{CAPTION_PROMPT}"}
        return [
            Conversation([question, {"role": "assistant", "content": text}], [scene.image])
            for text, scene in zip(texts, scenes, strict=True)
        ]

    own = generate_answers(embedded, answered([""] * 3), max_new_tokens=60)
    assert len(set(own)) == 3
    assert all(reply.is_given for reply in read_replies(embedded, answered(own)))
    others = [own[1], own[2], own[0]]
    assert not any(reply.is_given for reply in read_replies(embedded, answered(others)))
