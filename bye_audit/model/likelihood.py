"""How likely a model finds the answers a dataset teaches it.

Shape legend: B samples, S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bye_audit.model.encodings import Batch, Encoding, order_by_length
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Conversation

_NO_ANSWER = (float("nan"),) * 3


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model makes of one given answer.

    Parameters
    ----------
    logp
        Mean log-likelihood of the answer's tokens in nats, at most 0; NaN where there is none.
    is_given
        Whether the model itself, always taking its likeliest token, would answer exactly this.
    """

    logp: float
    is_given: bool


def read_replies(
    vlm: VisionLanguageModel,
    conversations: Sequence[Conversation],
    *,
    use_adapter: bool = True,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> list[Reply]:
    """Ask a model how likely the first answer of each conversation is and whether it is its own.

    One forward pass tells what a model would generate, as long as only one answer is in question.

    Parameters
    ----------
    vlm
        The model.
    conversations
        What was asked and answered.
    use_adapter
        Whether the provisional adapter speaks, or the model below it.
    batch_size
        Conversations a forward pass.
    max_tokens
        Judge a longer answer by so many of its first tokens. None: by all.

    Returns
    -------
    list[Reply]
        In the order of ``conversations``. The token that ends the answer counts.
    """
    replies = [Reply(float("nan"), False)] * len(conversations)
    encodings = [
        _begin(vlm.encoder.encode(conversation, "first"), max_tokens)
        for conversation in conversations
    ]
    with nullcontext() if use_adapter else vlm.without_adapter():
        for chosen in order_by_length(encodings, batch_size):
            part = [encodings[index] for index in chosen]
            logits_BSV = last_logits(vlm, vlm.encoder.collate(part, with_answers=True))
            for index, logits_SV, encoding in zip(chosen, logits_BSV, part, strict=True):
                replies[index] = _reply(logits_SV, encoding)
    return replies


def _begin(encoding: Encoding, max_tokens: int | None) -> Encoding:
    """Leave the beginning of the first answer alone to be judged."""
    if max_tokens is None or encoding.first_answer_length <= max_tokens:
        return encoding
    return replace(
        encoding,
        continuation_ids=encoding.continuation_ids[:max_tokens],
        labels=encoding.labels[:max_tokens],
        answers=((0, max_tokens),),
    )


def _reply(logits_SV: Tensor, encoding: Encoding) -> Reply:
    if not encoding.answers:
        return Reply(float("nan"), False)
    logp_SV, label_S = _answer_tokens(logits_SV, encoding, 0)
    if not len(label_S):
        return Reply(float("nan"), False)
    mean = logp_SV.gather(1, label_S[:, None]).mean().item()
    return Reply(mean, bool((logp_SV.argmax(-1) == label_S).all()))


def answer_log_likelihood(
    vlm: VisionLanguageModel,
    conversations: Sequence[Conversation],
    *,
    use_adapter: bool = True,
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Mean log-likelihood of each conversation's first answer, in nats a token.

    Parameters
    ----------
    vlm
        The model.
    conversations
        What was asked and answered.
    use_adapter
        Whether the provisional adapter speaks, or the model below it.
    batch_size
        Conversations a forward pass.

    Returns
    -------
    NDArray[np.float64]
        At most 0, higher is likelier; NaN where there is no answer. The token that ends the
        answer counts.
    """
    replies = read_replies(vlm, conversations, use_adapter=use_adapter, batch_size=batch_size)
    return np.array([reply.logp for reply in replies], dtype=np.float64)


@torch.inference_mode()
def last_logits(vlm: VisionLanguageModel, batch: Batch) -> Tensor:
    """Logits from the last prompt position on."""
    keep = num_answer_logits(batch)
    outputs = vlm.model(**batch.to(vlm.device), use_cache=False, logits_to_keep=keep)
    logits: Tensor = outputs.logits
    return logits[:, -keep:]


def num_answer_logits(batch: Batch) -> int:
    """Positions from the last of the prompt to the end."""
    return batch.labels_BS.shape[1] - batch.prompt_length + 1


def first_answer_logp(
    logits_BSV: Sequence[Tensor] | Tensor, encodings: Sequence[Encoding]
) -> NDArray[np.float64]:
    """Log-likelihoods of the first answers, (answers, 3) as of `answer_logp`.

    Logits start at the last prompt position, which predicts the first answer token; what follows
    the first answer is passed over.
    """
    # One row at a time: a vocabulary in float32 for a whole batch is the largest tensor there is.
    return np.array(
        [
            answer_logp(logits_SV, encoding) if encoding.answers else _NO_ANSWER
            for logits_SV, encoding in zip(logits_BSV, encodings, strict=True)
        ],
        dtype=np.float64,
    )


def answer_logp(logits_SV: Tensor, encoding: Encoding, turn: int = 0) -> tuple[float, float, float]:
    """Log-likelihood of one answer: mean over its tokens, of the first and of the least likely.

    Logits start at the last prompt position. NaN where there is no answer.
    """
    logp_SV, label_S = _answer_tokens(logits_SV, encoding, turn)
    if not len(label_S):
        return _NO_ANSWER
    logp_S = logp_SV.gather(1, label_S[:, None])[:, 0]
    return logp_S.mean().item(), logp_S[0].item(), logp_S.min().item()


def _answer_tokens(logits_SV: Tensor, encoding: Encoding, turn: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities at the places that predict one answer's tokens, and those tokens."""
    start, length = encoding.answers[turn]
    label_S = torch.tensor(encoding.labels[start : start + length], device=logits_SV.device)
    is_taught_S = label_S >= 0
    logp_SV = torch.log_softmax(logits_SV[start : start + length][is_taught_S].float(), -1)
    return logp_SV, label_S[is_taught_S]
