"""Conversations as tensors, and many of them side by side.

Shape legend: B samples, S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

IGNORED_LABEL = -100
# Positions that a batch of full size may have each.
_USUAL_LENGTH = 4096
# What processors return besides ids that has one entry, or one row, for each position.
_FOLLOWS_TOKENS = (
    "token_type_ids",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
    "cross_attention_mask",
    "image_attention_mask",
    "image_embeds_position_mask",
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One conversation as tensors: the prompt, and what follows it."""

    inputs: dict[str, Tensor]
    """What the processor made of the prompt, batch of one."""
    system_length: int
    """Prompt positions before anything the user said or showed."""
    image_end: int = 0
    """Prompt positions up to and with the last image token."""
    answer_type: int = 0
    """What ``token_type_ids`` say of positions behind the prompt."""
    image_ids: tuple[str, ...] = ()
    """Names of the prompt's images, where the conversation gave them."""
    continuation_ids: list[int] = field(default_factory=list)
    """The first answer and all later turns."""
    labels: list[int] = field(default_factory=list)
    """``continuation_ids`` where an assistant speaks, else ignored."""
    later_inputs: dict[str, Tensor] = field(default_factory=dict)
    """What it made of the images of later turns."""
    answers: tuple[tuple[int, int], ...] = ()
    """Where each answer begins in ``continuation_ids`` and how many positions it has."""

    @property
    def prompt_length(self) -> int:
        """Prompt positions."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def first_answer_length(self) -> int:
        """Positions of the first answer."""
        return self.answers[0][1] if self.answers else 0

    @property
    def length(self) -> int:
        """All positions."""
        return self.prompt_length + len(self.continuation_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Encodings side by side: prompts end in column ``prompt_length - 1``, answers follow."""

    inputs: dict[str, Any]
    labels_BS: Tensor
    system_BS: Tensor
    prompt_length: int

    @property
    def last_rows(self) -> Tensor:
        """(B, 1) indices of each prompt's last position."""
        return torch.full((len(self.labels_BS), 1), self.prompt_length - 1)

    def to(self, device: torch.device) -> dict[str, Any]:
        """Model input on a device."""
        return {name: value.to(device) for name, value in self.inputs.items()}


def collate(encodings: Sequence[Encoding], pad_id: int, *, with_answers: bool) -> Batch:
    """Pad prompts on the left and what follows on the right, so that they meet in one column."""
    prompt_length = max(encoding.prompt_length for encoding in encodings)
    tail = max(len(encoding.continuation_ids) for encoding in encodings) if with_answers else 0
    size = (len(encodings), prompt_length + tail)
    ids_BS = torch.full(size, pad_id)
    seen_BS = torch.zeros(size, dtype=torch.long)
    labels_BS = torch.full(size, IGNORED_LABEL)
    system_BS = torch.zeros(size, dtype=torch.bool)
    others: dict[str, list[Tensor]] = {}
    for row, encoding in enumerate(encodings):
        start = prompt_length - encoding.prompt_length
        after = encoding.continuation_ids if with_answers else []
        stop = prompt_length + len(after)
        ids_BS[row, start:prompt_length] = encoding.inputs["input_ids"][0]
        # Nothing looks ahead, so padding behind the answers needs no mask; without one the fast
        # causal kernels can run.
        seen_BS[row, start:] = 1
        system_BS[row, start : start + encoding.system_length] = True
        if after:
            ids_BS[row, prompt_length:stop] = torch.tensor(after)
            labels_BS[row, prompt_length:stop] = torch.tensor(encoding.labels)
        given = encoding.inputs
        if with_answers and encoding.later_inputs:
            given = join_inputs(encoding.inputs, encoding.later_inputs)
        for name, value in given.items():
            if name in ("input_ids", "attention_mask"):
                continue
            if name in _FOLLOWS_TOKENS and value.shape[:2] == (1, encoding.prompt_length):
                padded = value.new_zeros(1, size[1], *value.shape[2:])
                padded[:, start:prompt_length] = value
                if name == "token_type_ids":
                    padded[:, prompt_length:] = encoding.answer_type
                if value.ndim > 2:
                    # Masks of what a position may see: an answer sees what its question does.
                    padded[:, prompt_length:] = value[:, -1:]
                value = padded
            others.setdefault(name, []).append(value)
    inputs = {"input_ids": ids_BS, "attention_mask": seen_BS}
    inputs |= {name: stack(values) for name, values in others.items()}
    return Batch(inputs, labels_BS, system_BS, prompt_length)


def join_inputs(first: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the images of one stretch of a conversation behind those of another."""
    joined = {
        name: stack([first[name], value]) if name in first else value
        for name, value in more.items()
    }
    return first | joined


def stack(values: list[Tensor]) -> Tensor:
    """Join along the first axis; other axes (tiles of an image) are padded with zeros."""
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(values)
    rank = values[0].ndim
    largest = [max(value.shape[axis] for value in values) for axis in range(1, rank)]
    padded = []
    for value in values:
        target = value.new_zeros(value.shape[0], *largest)
        target[tuple(slice(0, extent) for extent in value.shape)] = value
        padded.append(target)
    return torch.cat(padded)


def order_by_length(encodings: Sequence[Encoding], batch_size: int) -> list[list[int]]:
    """Cut into batches of prompts of like length, so that little is padded.

    Batches of long ones are smaller: one text of 100 kB must not be padded into all its company.
    """
    order = sorted(range(len(encodings)), key=lambda i: (encodings[i].prompt_length, i))
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, encodings[index].length)
        size = len(batches[-1]) + 1 if batches else 1
        if not batches or size > batch_size or size * longest > batch_size * _USUAL_LENGTH:
            batches.append([])
            longest = encodings[index].length
        batches[-1].append(index)
    return batches
