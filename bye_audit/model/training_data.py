"""Conversations as the Trainer wants them: encoded once, batched, none able to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from bye_audit.errors import ModelError
from bye_audit.model.encodings import IGNORED_LABEL, Encoding
from bye_audit.model.prompts import Conversation, ConversationEncoder, ConversationError

_CACHE_BYTES = 512 * 1024**2


class ConversationDataset(Protocol):
    """Conversations by number; reading one may fail with ``ConversationError``."""

    def __len__(self) -> int:
        """Count the conversations."""
        ...

    def __getitem__(self, index: int, /) -> Conversation:
        """Read one."""
        ...


class TrainingSamples(torch.utils.data.Dataset[Encoding]):
    """Encodings by number; what cannot be used becomes a sample without labels."""

    def __init__(
        self, encoder: ConversationEncoder, conversations: ConversationDataset, max_length: int
    ) -> None:
        self._encoder = encoder
        self._conversations = conversations
        self._max_length = max_length
        self._cache: dict[int, Encoding] = {}
        self._cached_bytes = 0
        self._fallback: Encoding | None = None
        self.left_out = torch.zeros(len(conversations), dtype=torch.uint8)
        """1 for each sample found to be of no use so far, by this process."""

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Encoding:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Encoding]:
        """Read a whole batch at once: the store is asked for its images only once."""
        missing = [index for index in indices if index not in self._cache]
        fresh = dict(zip(missing, self._read(missing), strict=True))
        made = []
        for index in indices:
            encoding = self._cache.get(index) or self._encode(index, fresh[index])
            if encoding is None:
                self.left_out[index] = 1
                encoding = self._fallback
            assert encoding is not None
            made.append(encoding)
        return made

    def text_lengths(self) -> list[int]:
        """Characters of each conversation: to order by, where encoding all would take hours."""
        measure = getattr(self._conversations, "text_lengths", None)
        if measure is not None:
            return list(measure())
        found = []
        for conversation in self._read(list(range(len(self)))):
            turns = conversation.messages if conversation else []
            found.append(sum(len(turn["content"] or "") for turn in turns))
        return found

    @property
    def num_left_out(self) -> int:
        """Samples found to be of no use so far."""
        return int(self.left_out.sum())

    def find_fallback(self) -> None:
        """Find the first usable sample: a batch of none but useless ones needs a stand-in."""
        for index in range(len(self)):
            encoding = self._encode(index, self._read([index])[0])
            if encoding is not None:
                unlabelled = [IGNORED_LABEL] * len(encoding.labels)
                self._fallback = replace(encoding, labels=unlabelled)
                return
            self.left_out[index] = 1
        raise ModelError(
            f"None of the {len(self)} samples can be used for fine-tuning.",
            hint="They need an answer and at most --max-length tokens.",
        )

    def _read(self, indices: list[int]) -> list[Conversation | None]:
        read_many = getattr(self._conversations, "__getitems__", None)
        if read_many is not None:
            return list(read_many(indices)) if indices else []
        found: list[Conversation | None] = []
        for index in indices:
            try:
                found.append(self._conversations[index])
            except ConversationError:
                found.append(None)
        return found

    def _encode(self, index: int, conversation: Conversation | None) -> Encoding | None:
        if conversation is None:
            return None
        try:
            encoding = self._encoder.encode(conversation)
        except ConversationError:
            return None
        if not encoding.labels or encoding.length > self._max_length:
            return None
        tensors = (*encoding.inputs.values(), *encoding.later_inputs.values())
        size = sum(value.nbytes for value in tensors)
        if self._cached_bytes + size <= _CACHE_BYTES:
            self._cache[index] = encoding
            self._cached_bytes += size
        return encoding


@dataclass(frozen=True, slots=True)
class AnswerCollator:
    """Makes the keyword arguments of a model's forward pass, and the labels."""

    encoder: ConversationEncoder

    def __call__(self, encodings: Sequence[Encoding]) -> dict[str, Any]:
        """Put encodings side by side."""
        batch = self.encoder.collate(encodings, with_answers=True)
        keep = batch.labels_BS.shape[1] - batch.prompt_length + 1
        # Only positions from the last of the prompt on predict anything that is learnt.
        return {
            **batch.inputs,
            "labels": batch.labels_BS,
            "logits_to_keep": keep,
            "use_cache": False,
        }
