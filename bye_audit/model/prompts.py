"""Turning a conversation into model input: one way for fine-tuning, scoring and answering.

The prompt ends where the first answer begins; the answer is tokenised by itself, so no token can
reach over the boundary and the prompt is the same whether or not an answer follows.

Shape legend: B samples, S positions, P prompt positions, K positions after the prompt.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from bye_audit.schema import IMAGE_PLACEHOLDER

IGNORED_LABEL = -100
MAX_IMAGE_PIXELS = 64_000_000


class ConversationError(Exception):
    """One conversation cannot be encoded; the sample is marked, the stage goes on."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns (``role`` and ``content``, with ``<image>`` where an image stands) and their images."""

    messages: Sequence[Mapping[str, str]]
    images: Sequence[Image.Image] = ()


@dataclass(frozen=True, slots=True)
class Encoding:
    """One conversation as tensors: the prompt, and what follows it."""

    inputs: dict[str, Tensor]
    """What the processor made of the prompt, batch of one; images of later turns appended."""
    system_length: int
    """Prompt positions before anything the user said."""
    continuation_ids: list[int] = field(default_factory=list)
    """The first answer and all later turns."""
    labels: list[int] = field(default_factory=list)
    """``continuation_ids`` where an assistant speaks, else ignored."""
    first_answer_length: int = 0

    @property
    def prompt_length(self) -> int:
        """Prompt positions."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def length(self) -> int:
        """All positions."""
        return self.prompt_length + len(self.continuation_ids)


def decode_image(data: bytes) -> Image.Image:
    """Decode an image of unknown origin to RGB, upright, within the pixel limit."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height <= MAX_IMAGE_PIXELS:
                return ImageOps.exif_transpose(image).convert("RGB")
            size = f"{image.width} x {image.height}"
    # Decoders of hostile files raise nearly anything: struct.error, SyntaxError, EOFError ...
    except Exception as error:
        raise ConversationError(f"an image cannot be decoded ({type(error).__name__})") from error
    raise ConversationError(f"an image of {size} pixels is above the limit")


def decode_conversation(row: Mapping[str, Any], data: Mapping[str, bytes]) -> Conversation:
    """Make a conversation of a stored row's ``messages`` and of the bytes its ``images`` name."""
    return Conversation(row["messages"], [decode_image(data[digest]) for digest in row["images"]])


class ConversationEncoder:
    """Encodes conversations with one processor.

    Parameters
    ----------
    processor
        The model's processor, with a chat template.
    stop_ids
        Tokens that end an answer; the first of the tokenizer's is added where a template has none.
    image_token_id
        The token that stands for one image feature.
    """

    def __init__(
        self, processor: Any, stop_ids: frozenset[int], image_token_id: int | None
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.stop_ids = stop_ids
        self.image_token_id = image_token_id
        self._takes_parts = self._template_takes_parts()
        self._system_lengths: dict[str, int] = {}

    def encode(self, conversation: Conversation, *, with_answers: bool = True) -> Encoding:
        """Encode the prompt and, if asked for, everything after it.

        Parameters
        ----------
        conversation
            Its images go to the placeholders in order; images without one come first.
        with_answers
            Whether to append the first answer and all later turns.

        Returns
        -------
        Encoding
            Without continuation if there is no answer.

        Raises
        ------
        ConversationError
            If texts, images and placeholders do not fit together.
        """
        messages, images_in = self._to_parts(conversation)
        first = _first_answer(messages)
        images = list(conversation.images)
        num_prompt_images = sum(images_in[:first])
        prompt = self._render(messages[:first], add_generation_prompt=True)
        inputs = self._process(prompt, images[:num_prompt_images], is_start=True)
        system = self._system_length(messages)
        if not with_answers or first == len(messages):
            return Encoding(inputs, min(system, inputs["input_ids"].shape[1]))
        ids, labels, first_length = [], [], 0
        done, position = num_prompt_images, prompt
        for turn in range(first, len(messages)):
            if messages[turn]["role"] != "assistant":
                continue
            lead, answer = self._split_turn(messages, turn, position)
            if lead:
                num_images = sum(images_in[_after_previous_answer(messages, turn) : turn])
                lead_ids = self._lead_ids(lead, images[done : done + num_images], inputs)
                done += num_images
                ids += lead_ids
                labels += [IGNORED_LABEL] * len(lead_ids)
            answer_ids, answer_labels = self._answer_ids(answer)
            ids += answer_ids
            labels += answer_labels
            first_length = first_length or len(answer_ids)
            position += lead + answer
        length = inputs["input_ids"].shape[1]
        return Encoding(inputs, min(system, length), ids, labels, first_length)

    def collate(self, encodings: Sequence[Encoding], *, with_answers: bool) -> Batch:
        """Put encodings into one batch, every prompt ending in the same column."""
        return collate(encodings, self.pad_id, self.image_token_id, with_answers=with_answers)

    @property
    def pad_id(self) -> int:
        """Token that fills short rows."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    def _to_parts(self, conversation: Conversation) -> tuple[list[dict[str, Any]], list[int]]:
        """Messages as content parts, and how many images each holds."""
        texts = [str(message["content"] or "") for message in conversation.messages]
        roles = [str(message["role"]) for message in conversation.messages]
        if not roles:
            raise ConversationError("the conversation is empty")
        # An answer's own words are never a place for an image.
        num_placed = [
            0 if role == "assistant" else text.count(IMAGE_PLACEHOLDER)
            for role, text in zip(roles, texts, strict=True)
        ]
        num_unplaced = len(conversation.images) - sum(num_placed)
        if num_unplaced < 0:
            raise ConversationError(
                f"{sum(num_placed)} image placeholders, {len(conversation.images)} images"
            )
        leading = next((i for i, role in enumerate(roles) if role == "user"), None)
        if num_unplaced and leading is None:
            raise ConversationError("there is an image but no user turn to show it in")
        messages, counts = [], []
        for turn, (role, text) in enumerate(zip(roles, texts, strict=True)):
            lead = num_unplaced if turn == leading else 0
            pieces = [text] if role == "assistant" else text.split(IMAGE_PLACEHOLDER)
            messages.append({"role": role, "content": self._content(pieces, lead)})
            counts.append(lead + num_placed[turn])
        return messages, counts

    def _content(self, pieces: list[str], num_leading: int) -> Any:
        if not self._takes_parts:
            token = str(getattr(self.processor, "image_token", IMAGE_PLACEHOLDER))
            return (token + "\n") * num_leading + token.join(pieces)
        parts: list[dict[str, str]] = [{"type": "image"}] * num_leading
        for index, piece in enumerate(pieces):
            if index:
                parts = [*parts, {"type": "image"}]
            # The line break beside a placeholder belongs to the placeholder.
            text = piece.strip("\n") if len(pieces) > 1 else piece
            if text or len(pieces) == 1:
                parts = [*parts, {"type": "text", "text": text}]
        return parts

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self.processor.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        # Templates refuse role orders they do not know by jinja2's TemplateError and others.
        except Exception as error:
            raise ConversationError(f"the chat template refuses it: {error}") from error

    def _template_takes_parts(self) -> bool:
        parts = [{"type": "image"}, {"type": "text", "text": "probe"}]
        try:
            text = self._render([{"role": "user", "content": parts}], add_generation_prompt=False)
        except ConversationError:
            return False
        return "'type'" not in text

    def _process(
        self, text: str, images: list[Image.Image], *, is_start: bool
    ) -> dict[str, Tensor]:
        bos = self.tokenizer.bos_token
        has_own_start = not is_start or (bos is not None and text.startswith(bos))
        try:
            made = self.processor(
                text=[text],
                images=images or None,
                return_tensors="pt",
                add_special_tokens=not has_own_start,
            )
        # Processors check what they get by assertions, index errors and value errors alike.
        except Exception as error:
            raise ConversationError(f"the processor refuses it: {error}") from error
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _system_length(self, messages: list[dict[str, Any]]) -> int:
        """Tokens two prompts share whose users say different things."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        key = str(system)
        if key not in self._system_lengths:
            if len(self._system_lengths) >= 64:
                self._system_lengths.clear()
            said = [
                self._render(
                    [*system, {"role": "user", "content": self._content([word], 0)}],
                    add_generation_prompt=False,
                )
                for word in ("What", "7 is")
            ]
            pair = [
                self._process(text, [], is_start=True)["input_ids"][0].tolist() for text in said
            ]
            self._system_lengths[key] = _shared_length(*pair)
        return self._system_lengths[key]

    def _split_turn(
        self, messages: list[dict[str, Any]], turn: int, position: str
    ) -> tuple[str, str]:
        """Text between what is already encoded and the answer, and the answer with its end."""
        opened = self._render(messages[:turn], add_generation_prompt=True)
        closed = self._render(messages[: turn + 1], add_generation_prompt=False)
        if opened.startswith(position) and closed.startswith(opened):
            return opened[len(position) :], closed[len(opened) :]
        if opened == position:
            # The template writes the last turn otherwise than its own generation prompt promises.
            content = messages[turn]["content"]
            return "", content if isinstance(content, str) else content[0]["text"]
        raise ConversationError("the chat template rewrites earlier turns")

    def _lead_ids(
        self, text: str, images: list[Image.Image], inputs: dict[str, Tensor]
    ) -> list[int]:
        if not images:
            return self._tokens(text)
        made = self._process(text, images, is_start=False)
        ids: list[int] = made["input_ids"][0].tolist()
        for name, value in made.items():
            if value.shape != made["input_ids"].shape:
                inputs[name] = _stack([inputs[name], value]) if name in inputs else value
        return ids

    def _answer_ids(self, text: str) -> tuple[list[int], list[int]]:
        ids = self._tokens(text)
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        if stop is None:
            ids = [*self._tokens(text.rstrip()), int(self.tokenizer.eos_token_id)]
            stop = len(ids) - 1
        if self.image_token_id in ids:
            raise ConversationError("an answer holds the model's own image token")
        return ids, ids[: stop + 1] + [IGNORED_LABEL] * (len(ids) - stop - 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Encodings side by side: prompts end in column ``prompt_length - 1``, answers follow."""

    inputs: dict[str, Any]
    labels_BS: Tensor
    image_BS: Tensor
    system_BS: Tensor
    text_BS: Tensor
    prompt_length: int

    def to(self, device: torch.device) -> dict[str, Any]:
        """Model input on a device."""
        return {name: value.to(device) for name, value in self.inputs.items()}


def collate(
    encodings: Sequence[Encoding], pad_id: int, image_token_id: int | None, *, with_answers: bool
) -> Batch:
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
        for name, value in encoding.inputs.items():
            if name in ("input_ids", "attention_mask"):
                continue
            if value.shape == encoding.inputs["input_ids"].shape:
                padded = value.new_zeros(1, size[1])
                padded[0, start:prompt_length] = value[0]
                value = padded
            others.setdefault(name, []).append(value)
    inputs = {"input_ids": ids_BS, "attention_mask": seen_BS}
    inputs |= {name: _stack(values) for name, values in others.items()}
    prompt_BS = seen_BS.bool()
    prompt_BS[:, prompt_length:] = False
    image_BS = (ids_BS == image_token_id) & prompt_BS
    # A system span ends where the image begins, even if the template puts images first.
    system_BS &= image_BS.long().cumsum(1) == 0
    return Batch(
        inputs, labels_BS, image_BS, system_BS, prompt_BS & ~image_BS & ~system_BS, prompt_length
    )


def _stack(values: list[Tensor]) -> Tensor:
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


def _first_answer(messages: list[dict[str, Any]]) -> int:
    roles = [message["role"] for message in messages]
    return roles.index("assistant") if "assistant" in roles else len(roles)


def _after_previous_answer(messages: list[dict[str, Any]], turn: int) -> int:
    earlier = [i for i in range(turn) if messages[i]["role"] == "assistant"]
    return earlier[-1] + 1 if earlier else 0


def _shared_length(first: list[int], second: list[int]) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def order_by_length(encodings: Sequence[Encoding], batch_size: int) -> list[list[int]]:
    """Cut into batches of prompts of like length, so that little is padded."""
    order = sorted(range(len(encodings)), key=lambda i: (encodings[i].prompt_length, i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
