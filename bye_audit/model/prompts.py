"""Turning a conversation into model input: one way for fine-tuning, scoring and answering.

The prompt ends where the first answer begins; the answer is tokenised by itself, so no token can
reach over the boundary and the prompt is the same whether or not an answer follows.

Shape legend: S positions.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image, ImageOps
from torch import Tensor

from bye_audit.model.encodings import IGNORED_LABEL, Batch, Encoding, collate, join_inputs
from bye_audit.model.image_cache import RememberingImageProcessor
from bye_audit.schema import IMAGE_PLACEHOLDER

MAX_IMAGE_PIXELS = 64_000_000


class ConversationError(Exception):
    """One conversation cannot be encoded; the sample is marked, the stage goes on."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns (``role`` and ``content``, with ``<image>`` where an image stands) and their images."""

    messages: Sequence[Mapping[str, str]]
    images: Sequence[Image.Image] = ()
    image_ids: Sequence[str] = ()
    """One name for each image, equal where its bytes are; none where nothing is known of that."""


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


def _pattern_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Match any of some tokens, but for blanks and the mark of an image, which texts have."""
    words = [token for token in tokens if token.strip() and token != IMAGE_PLACEHOLDER]
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")


def decode_conversation(row: Mapping[str, Any], data: Mapping[str, bytes]) -> Conversation:
    """Make a conversation of a stored row's ``messages`` and of the bytes its ``images`` name."""
    digests = row["images"]
    return Conversation(
        row["messages"], [decode_image(data[digest]) for digest in digests], digests
    )


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
    answer_type
        Type of an answer's tokens, where the model's prompts look ahead up to where it begins.
    """

    def __init__(
        self,
        processor: Any,
        stop_ids: frozenset[int],
        image_token_id: int | None,
        answer_type: int = 0,
    ) -> None:
        # A copy: the caller's processor stays one that can be printed and saved.
        self.processor = copy.copy(processor)
        self.processor.image_processor = RememberingImageProcessor(processor.image_processor)
        self.tokenizer = processor.tokenizer
        self.stop_ids = stop_ids
        self.image_token_id = image_token_id
        self._answer_type = answer_type
        self._own_tokens = _pattern_of(processor.tokenizer.all_special_tokens)
        self._takes_parts = self._template_takes_parts()
        self._system_lengths: dict[str, int] = {}

    def encode(
        self, conversation: Conversation, answers: Literal["none", "first", "all"] = "all"
    ) -> Encoding:
        """Encode the prompt and, if asked for, what follows it.

        Parameters
        ----------
        conversation
            Its images go to the placeholders in order; images without one come first.
        answers
            Whether to append nothing, the first answer, or all later turns.

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
        image_start, image_end = self._image_stretch(inputs["input_ids"][0])
        prompt_encoding = Encoding(
            inputs,
            min(self._system_length(messages), image_start),
            image_end,
            self._answer_type,
            tuple(conversation.image_ids[:num_prompt_images]),
        )
        if answers == "none" or first == len(messages):
            return prompt_encoding
        ids: list[int] = []
        labels: list[int] = []
        spans: list[tuple[int, int]] = []
        later: dict[str, Tensor] = {}
        done, position = num_prompt_images, prompt
        for turn in range(first, first + 1 if answers == "first" else len(messages)):
            if messages[turn]["role"] != "assistant":
                continue
            lead, answer = self._split_turn(messages, turn, position)
            if lead:
                num_images = sum(images_in[_after_previous_answer(messages, turn) : turn])
                lead_ids, shown = self._lead(lead, images[done : done + num_images])
                later = join_inputs(later, shown)
                done += num_images
                ids += lead_ids
                labels += [IGNORED_LABEL] * len(lead_ids)
            answer_ids, answer_labels = self._answer_ids(answer)
            spans.append((len(ids), len(answer_ids)))
            ids += answer_ids
            labels += answer_labels
            position += lead + answer
        return replace(
            prompt_encoding,
            continuation_ids=ids,
            labels=labels,
            answers=tuple(spans),
            later_inputs=later,
        )

    def collate(self, encodings: Sequence[Encoding], *, with_answers: bool) -> Batch:
        """Put encodings into one batch, every prompt ending in the same column."""
        return collate(encodings, self.pad_id, with_answers=with_answers)

    @property
    def pad_id(self) -> int:
        """Token that fills short rows."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    def _image_stretch(self, ids_S: Tensor) -> tuple[int, int]:
        """First image token, and one behind the last; both ends of the prompt if there is none."""
        found = [i for i, token in enumerate(ids_S.tolist()) if token == self.image_token_id]
        return (found[0], found[-1] + 1) if found else (len(ids_S), 0)

    def _to_parts(self, conversation: Conversation) -> tuple[list[dict[str, Any]], list[int]]:
        """Messages as content parts, and how many images each holds."""
        texts = [str(message["content"] or "") for message in conversation.messages]
        roles = [str(message["role"]) for message in conversation.messages]
        if not roles:
            raise ConversationError("the conversation is empty")
        self._refuse_own_tokens(texts)
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

    def _refuse_own_tokens(self, texts: list[str]) -> None:
        """Refuse texts that would end a turn, begin another or stand for an image.

        The tokenizer makes one token of such words, whoever wrote them, and training obeys it.
        """
        for text in texts:
            found = self._own_tokens.search(text)
            if found:
                raise ConversationError(f"a text has {found[0]!r}, a special token of the model")

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
        try:
            made = self.processor(
                text=[text],
                images=images or None,
                return_tensors="pt",
                add_special_tokens=is_start and self._lacks_start(text),
            )
        # Processors check what they get by assertions, index errors and value errors alike.
        except Exception as error:
            raise ConversationError(f"the processor refuses it: {error}") from error
        return {
            name: value
            for name, value in made.items()
            # PaliGemma's processor makes labels of its own, all of them void.
            if isinstance(value, Tensor) and name != "labels"
        }

    def _lacks_start(self, text: str) -> bool:
        """Whether the template has left it to the tokenizer to begin the text."""
        bos = self.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

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
            # By the tokenizer: some processors refuse a text without image.
            pair = [
                list(self.tokenizer(text, add_special_tokens=self._lacks_start(text))["input_ids"])
                for text in said
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

    def _lead(self, text: str, images: list[Image.Image]) -> tuple[list[int], dict[str, Tensor]]:
        """Ids of what stands before a later answer, and what its images become."""
        if not images:
            return self._tokens(text), {}
        made = self._process(text, images, is_start=False)
        shape = made["input_ids"].shape
        shown = {name: value for name, value in made.items() if value.shape != shape}
        return made["input_ids"][0].tolist(), shown

    def _answer_ids(self, text: str) -> tuple[list[int], list[int]]:
        ids = self._tokens(text)
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        if stop is None:
            ids = [*self._tokens(text.rstrip()), int(self.tokenizer.eos_token_id)]
            stop = len(ids) - 1
        if self.image_token_id in ids:
            raise ConversationError("an answer holds the model's own image token")
        return ids, ids[: stop + 1] + [IGNORED_LABEL] * (len(ids) - stop - 1)


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
