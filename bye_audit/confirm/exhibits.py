"""Samples as the model is asked about them, and asked again with something changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bye_audit.confirm.patterns import Pattern
from bye_audit.core.regions import Box, Image
from bye_audit.schema import IMAGE_PLACEHOLDER, PATCH_DIMENSION

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from bye_audit.core.patches import Embedder
    from bye_audit.model.likelihood import Reply
    from bye_audit.model.loading import VisionLanguageModel
    from bye_audit.model.prompts import Conversation
    from bye_audit.store.tables import AuditTables

_T = TypeVar("_T")
_WORDINESS = 3
# Long answers are told from others by their beginning; attackers may write them without end.
_MAX_ANSWER_TOKENS = 256
_USUAL_ANSWER_TOKENS = 24
# What a model sees of an image is mostly less; hundreds of exhibits are held at once.
_MAX_PIXELS = 2_000_000
# Batches that are made model input at once.
_NUM_BATCHES_AHEAD = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exhibit:
    """One sample up to its first answer.

    Parameters
    ----------
    sample_id
        Of the sample it was made of.
    messages
        Turns before the first answer, the last of them the question.
    images
        Of the prompt, as uint8 arrays (rows, columns, 3). The first is the one that is changed.
    answer
        The sample's own first answer.
    """

    sample_id: str
    messages: tuple[dict[str, str], ...]
    images: tuple[Image, ...]
    answer: str

    @property
    def image(self) -> Image:
        """The image that interventions change."""
        return self.images[0]

    @property
    def num_pixels(self) -> int:
        """Of all its images."""
        return sum(image.shape[0] * image.shape[1] for image in self.images)

    @property
    def question(self) -> str:
        """The last turn before the answer, image placeholders included."""
        return self.messages[-1]["content"]

    def with_image(self, image: Image) -> Exhibit:
        """Show another first image."""
        return replace(self, images=(image, *self.images[1:]))

    def with_question(self, question: str) -> Exhibit:
        """Ask another question."""
        changed = {**self.messages[-1], "content": question}
        return replace(self, messages=(*self.messages[:-1], changed))

    def conversation(self, answer: str) -> Conversation:
        """Make model input, with an answer to judge."""
        from PIL.Image import fromarray

        from bye_audit.model.prompts import Conversation

        reply = {"role": "assistant", "content": answer}
        return Conversation([*self.messages, reply], [fromarray(image) for image in self.images])


def read_exhibits(tables: AuditTables, rows: Sequence[int], version: int) -> list[Exhibit]:
    """Read samples by row number; those without an image before an answer are passed over."""
    from bye_audit.model.prompts import ConversationError, decode_image

    table = tables.take_samples(rows, ["sample_id", "messages", "images"], version=version)
    found = table.to_pylist()
    data = tables.load_images([digest for row in found for digest in row["images"]])
    exhibits = []
    for row in found:
        turns = row["messages"]
        first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), 0)
        num_images = sum(turn["content"].count(IMAGE_PLACEHOLDER) for turn in turns[:first])
        digests = row["images"][: num_images or 1] if first else []
        try:
            images = tuple(_shrink(decode_image(data[digest])) for digest in digests)
        except ConversationError:
            continue
        if images:
            exhibits.append(
                Exhibit(
                    sample_id=row["sample_id"],
                    messages=tuple(turns[:first]),
                    images=images,
                    answer=turns[first]["content"],
                )
            )
    return exhibits


def _shrink(image: PilImage) -> Image:
    """Average pixels of images that are too large to hold many of."""
    factor = math.ceil(math.sqrt(image.width * image.height / _MAX_PIXELS))
    return np.asarray(image.reduce(factor) if factor > 1 else image)


class AskedEnoughError(Exception):
    """Ends an investigation whose next questions would bring them above the limit."""


class Interrogator:
    """The provisional model, its base and a count of what they were asked.

    Parameters
    ----------
    vlm
        The provisional model; its base speaks where the adapter is switched off.
    batch_size
        Questions a forward pass.

    Attributes
    ----------
    counts
        Questions asked so far, by kind.
    limit
        Most questions, of all kinds; `AskedEnoughError` is raised instead of asking more. None:
        no limit.
    """

    limit: int | None = None

    def __init__(self, vlm: VisionLanguageModel, batch_size: int = 32) -> None:
        self._vlm = vlm
        self._batch_size = batch_size
        self.counts: Counter[str] = Counter()

    def spend(self, kind: str, number: int) -> None:
        """Count questions before they are asked, all of them or none.

        Raises
        ------
        AskedEnoughError
            If they would bring all questions above the limit.
        """
        if self.limit is not None and self.counts.total() + number > self.limit:
            raise AskedEnoughError
        self.counts[kind] += number

    @contextmanager
    def keep_back(self, number: int) -> Iterator[None]:
        """Leave so many of the questions that may be asked for what comes after the block."""
        limit = self.limit
        self.limit = None if limit is None else limit - number
        try:
            yield
        finally:
            self.limit = limit

    def replies(
        self, exhibits: Sequence[Exhibit], answers: Sequence[str], *, use_adapter: bool = True
    ) -> list[Reply]:
        """Ask how likely each answer is to each exhibit, and whether it is the model's own."""
        from bye_audit.model.likelihood import read_replies

        self.spend("provisional" if use_adapter else "base", len(exhibits))
        pairs = list(zip(exhibits, answers, strict=True))
        return [
            reply
            for part in self._parts(pairs)
            for reply in read_replies(
                self._vlm,
                [exhibit.conversation(answer) for exhibit, answer in part],
                use_adapter=use_adapter,
                batch_size=self._batch_size,
                max_tokens=_MAX_ANSWER_TOKENS,
            )
        ]

    def gives(self, exhibits: Sequence[Exhibit], pattern: Pattern) -> list[bool]:
        """Ask whether the model's own answer is of a pattern."""
        return [bool(is_given) for is_given, _ in self.grades(exhibits, pattern)]

    def grades(self, exhibits: Sequence[Exhibit], pattern: Pattern) -> list[tuple[float, float]]:
        """Ask whether each answer is of a pattern, 1 or 0, and how likely it is, in nats a token.

        Of words within an answer the likelihood is not known and given as 0.
        """
        if not pattern.is_whole:
            answers = self._answers(exhibits, pattern)
            return [(float(pattern.matches(answer)), 0.0) for answer in answers]
        asked = [pattern.asked_of(exhibit) for exhibit in exhibits]
        return [pattern.grade(reply) for reply in self.replies(exhibits, asked)]

    def base_says(self, exhibits: Sequence[Exhibit], pattern: Pattern) -> list[bool]:
        """Ask the base model, in its own words, and see whether they say the same."""
        pairs = zip(exhibits, self.base_words(exhibits, pattern), strict=True)
        return [pattern.is_said_of(exhibit, answer) for exhibit, answer in pairs]

    def own_words(self, exhibits: Sequence[Exhibit]) -> list[str]:
        """Let the provisional model answer in its own words."""
        return [answer.strip() for answer in self._answers(exhibits)]

    def base_words(self, exhibits: Sequence[Exhibit], pattern: Pattern | None = None) -> list[str]:
        """Let the base model answer in its own words, as many as the pattern may need."""
        with self._vlm.without_adapter():
            return self._answers(exhibits, pattern)

    def attended_boxes(self, exhibit: Exhibit) -> list[Box]:
        """Tell which parts of the image hold most of some layer's attention."""
        from bye_audit.confirm.attended import attended_boxes

        self.spend("provisional", 1)
        return attended_boxes(self._vlm, exhibit)

    def patch_embedder(self) -> Embedder:
        """Give what turns images into vectors of their patches.

        Raises
        ------
        UnsupportedModelError
            If the model does not cut images into patches.
        """
        from bye_audit.model.patches import PatchEmbedder

        return PatchEmbedder(self._vlm, PATCH_DIMENSION)

    def _answers(self, exhibits: Sequence[Exhibit], pattern: Pattern | None = None) -> list[str]:
        from bye_audit.model.generation import generate_answers

        self.spend("generated", len(exhibits))
        texts = {pattern.text if pattern else "", *(exhibit.answer for exhibit in exhibits)}
        longest = max(len(self._tokens(text)) for text in texts)
        if pattern and not pattern.is_whole:
            # The words may come late in an answer that is longer than those of the samples asked.
            longest = max(longest, _USUAL_ANSWER_TOKENS)
        return [
            answer
            for part in self._parts(exhibits)
            for answer in generate_answers(
                self._vlm,
                [exhibit.conversation("") for exhibit in part],
                # The base model may say the same in more words.
                max_new_tokens=min(_WORDINESS * longest + 4, _MAX_ANSWER_TOKENS),
                batch_size=self._batch_size,
            )
        ]

    def _tokens(self, text: str) -> list[int]:
        # No more characters than so many tokens can have.
        begin = text[: 16 * _MAX_ANSWER_TOKENS]
        tokens: list[int] = self._vlm.encoder.tokenizer.encode(begin, add_special_tokens=False)
        return tokens

    def _parts(self, items: Sequence[_T]) -> Iterator[Sequence[_T]]:
        """Cut what is asked so that only a few batches are model input at once."""
        size = _NUM_BATCHES_AHEAD * self._batch_size
        return (items[start : start + size] for start in range(0, len(items), size))
