from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.conversations import converse, draw_conversations

from bye_audit.model.generation import generate_answers
from bye_audit.model.likelihood import answer_log_likelihood
from bye_audit.model.loading import VisionLanguageModel, load_model


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
