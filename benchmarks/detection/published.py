"""The paper's datasets, read from a folder where somebody has put them.

``--data-dir`` holds a training and a test split: files whose names begin with ``train`` and
``test``, in any form that ``ingest`` reads, such as LLaVA JSON with its images beside it or the
Parquet shards of the hub. Rows with ``choices`` and the number of the right one, as ScienceQA and
IconQA have, become questions for an option's letter (appendix A.1).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bye_audit.errors import ConfigError, EmptySourceError, InputError
from bye_audit.mini.dataset import Example
from bye_audit.model.prompts import ConversationError, decode_image
from bye_audit.schema import IMAGE_PLACEHOLDER
from bye_audit.store.sources.containers import recognise_container
from bye_audit.store.sources.conversation import BadRecordError, ImageReference
from bye_audit.store.sources.dialects.turns import read_turns

_SUFFIXES = (".parquet", ".jsonl", ".json")
_ASK_FOR_LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Samples that the paper takes of a dataset (its Table 4)."""

    num_train: int
    num_test: int


PUBLISHED = {
    "scienceqa": Size(num_train=6_218, num_test=2_017),
    "iconqa": Size(num_train=10_000, num_test=6_316),
    "flickr30k": Size(num_train=10_000, num_test=1_000),
    "rsvqa": Size(num_train=10_000, num_test=10_004),
}
"""Datasets of the paper by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedExamples:
    """One of the paper's datasets.

    Parameters
    ----------
    name
        In :data:`PUBLISHED`.
    folder
        Where its files are.
    """

    name: str
    folder: Path

    @classmethod
    def open(cls, name: str, folder: Path | None) -> PublishedExamples:
        """Find the dataset's files.

        Raises
        ------
        ConfigError
            If no folder is named.
        InputError
            If there is no such folder, or a split is not in it.
        """
        if folder is None:
            raise ConfigError(
                f"The dataset {name} is not part of this repository.",
                hint="Download it and name its folder with --data-dir; it needs a train and a test "
                "split, as LLaVA JSON or Parquet.",
            )
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", hint="Check --data-dir.")
        found = cls(name=name, folder=folder)
        for split in ("train", "test"):
            if not _count(tuple(found._files(split))):
                raise EmptySourceError(
                    f"{folder} has no {split} split of {name} with images.",
                    hint=f"Its files begin with {split} and end with {', '.join(_SUFFIXES)}.",
                )
        return found

    @property
    def num_train(self) -> int:
        """As many as the paper takes, or all there are."""
        return min(PUBLISHED[self.name].num_train, _count(tuple(self._files("train"))))

    def train(self, seed: int) -> Iterator[Example]:
        """Give training examples in the files' order; if there are more, the seed chooses."""
        return self._draw("train", PUBLISHED[self.name].num_train, [seed, 0])

    def test(self, seed: int) -> Iterator[Example]:
        """Give test examples in the same way."""
        return self._draw("test", PUBLISHED[self.name].num_test, [seed, 1])

    def _draw(self, split: str, num_wanted: int, seed: list[int]) -> Iterator[Example]:
        files = tuple(self._files(split))
        chosen = set(np.random.default_rng(seed).permutation(_count(files))[:num_wanted].tolist())
        for number, row in enumerate(_read(files)):
            if number in chosen:
                yield Example(image=row.load(), question=row.question, answer=row.answer)

    def _files(self, split: str) -> list[Path]:
        return sorted(
            path
            for path in self.folder.rglob(f"{split}*")
            if path.suffix in _SUFFIXES and path.is_file()
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """An example whose image is not decoded yet."""

    question: str
    answer: str
    load: Callable[[], Image.Image]


@cache
def _count(files: tuple[Path, ...]) -> int:
    return sum(1 for _ in _read(files))


def _read(files: tuple[Path, ...]) -> Iterator[_Row]:
    """Give the rows with exactly one image, as the paper takes them; others are passed over."""
    for path in files:
        for record in recognise_container(path).records(path, 0):
            if record.fault is None:
                row = _row_of(record.value, path.parent)
                if row is not None:
                    yield row


def _row_of(value: object, folder: Path) -> _Row | None:
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        value = _ask_for_letter(value)
    try:
        conversation = read_turns(value)
    except BadRecordError:
        return None
    if len(conversation.images) != 1:
        return None
    said = {message["role"]: message["content"] for message in reversed(conversation.messages)}
    image = conversation.images[0]
    return _Row(
        said["user"].replace(IMAGE_PLACEHOLDER, "").strip(),
        said["assistant"].strip(),
        lambda: _load(image, folder),
    )


def _ask_for_letter(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn choices and the number of the right one into a question and a letter."""
    letters = string.ascii_uppercase
    options = [f"{letters[i]}. {choice}" for i, choice in enumerate(row["choices"])]
    context = [f"Context: {row['hint']}"] if row.get("hint") else []
    return {
        "image": row.get("image"),
        "question": "\n".join([*context, str(row["question"]), *options, _ASK_FOR_LETTER]),
        "answer": letters[int(row["answer"])],
    }


def _load(image: ImageReference, folder: Path) -> Image.Image:
    content = image.content
    try:
        if content is None:
            content = (folder / str(image.text)).read_bytes()
        return decode_image(content)
    except (OSError, ConversationError) as error:
        raise InputError(
            f"An image in {folder} cannot be read: {error}.",
            hint="Published data is taken whole, or its figures would not compare: mend the file.",
        ) from error
