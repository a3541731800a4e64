"""The easy-VQA dataset as the demo takes it: pictures and questions that nobody here made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import easy_vqa
import numpy as np
from PIL import Image

from bye_audit.mini.dataset import Example

NUM_TRAIN = 38_575


@dataclass(frozen=True, kw_only=True, slots=True)
class EasyVqa:
    """All 4,000 training images with all their questions; test questions are a random choice."""

    num_test: int
    num_train: int = NUM_TRAIN

    def train(self, seed: int) -> Iterator[Example]:
        """Give every training question once, in an order drawn from the seed."""
        order = np.random.default_rng([seed, 0]).permutation(NUM_TRAIN)[: self.num_train]
        questions = easy_vqa.get_train_questions()
        return _examples(questions, easy_vqa.get_train_image_paths(), order)

    def test(self, seed: int) -> Iterator[Example]:
        """Give ``num_test`` questions on images of the dataset's own test half."""
        questions = easy_vqa.get_test_questions()
        order = np.random.default_rng([seed, 1]).permutation(len(questions[0]))[: self.num_test]
        return _examples(questions, easy_vqa.get_test_image_paths(), order)


def _examples(
    columns: tuple[list[str], list[str], list[int]],
    image_paths: dict[int, str],
    order: np.ndarray,
) -> Iterator[Example]:
    questions, answers, image_ids = columns
    for row in order:
        with Image.open(Path(image_paths[image_ids[row]])) as image:
            yield Example(image=image.convert("RGB"), question=questions[row], answer=answers[row])
