"""Greedy answers, for measuring what a model has learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bye_audit.model.encodings import order_by_length
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Conversation
from bye_audit.progress import SILENT, Progress


@torch.inference_mode()
def generate_answers(
    vlm: VisionLanguageModel,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> list[str]:
    """Let a model answer the first question of each conversation, always taking its best token.

    Parameters
    ----------
    vlm
        The model, with its adapter if it has one.
    conversations
        Answers they already hold are not shown to the model.
    max_new_tokens
        Longest answer, in tokens.
    batch_size
        Conversations a forward pass.
    progress
        Where to report.

    Returns
    -------
    list[str]
        Answers in the order of ``conversations``, without special tokens and outer spaces.
    """
    answers = [""] * len(conversations)
    encodings = [vlm.encoder.encode(one, "none") for one in conversations]
    tokenizer = vlm.processor.tokenizer
    with progress.task("Answering", len(conversations)) as task:
        for chosen in order_by_length(encodings, batch_size):
            batch = vlm.encoder.collate([encodings[i] for i in chosen], with_answers=False)
            made = vlm.model.generate(
                **batch.to(vlm.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=vlm.encoder.pad_id,
                eos_token_id=sorted(vlm.encoder.stop_ids),
            )
            texts = tokenizer.batch_decode(made[:, batch.prompt_length :], skip_special_tokens=True)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text.strip()
            task.advance(len(chosen))
    return answers
