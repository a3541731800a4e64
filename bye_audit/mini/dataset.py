"""Datasets to try an audit on, and their form on disk: LLaVA JSON beside image files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from bye_audit.mini import scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image, what is asked about it and the answer to learn."""

    image: Image.Image
    question: str
    answer: str


class ExampleSource(Protocol):
    """Clean training and test examples of one dataset."""

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        ...

    def train(self, seed: int) -> Iterator[Example]:
        """Give ``num_train`` examples, the same for the same seed."""
        ...

    def test(self, seed: int) -> Iterator[Example]:
        """Give examples that are not in ``train``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedScenes:
    """Generated scenes on textures the embedded model was not trained on, with short captions."""

    num_train: int
    num_test: int
    max_objects: int = 1

    def train(self, seed: int) -> Iterator[Example]:
        """Give training examples: another seed gives other scenes, the same the same pixels."""
        return self._draw(self.num_train, [seed, 0])

    def test(self, seed: int) -> Iterator[Example]:
        """Give test examples, drawn from a stream that no training seed shares."""
        return self._draw(self.num_test, [seed, 1])

    def _draw(self, count: int, seed: list[int]) -> Iterator[Example]:
        rng = np.random.default_rng([*seed, 0xCA97])
        for _ in range(count):
            scene = scenes.draw_scene(
                rng, textures=scenes.UNSEEN_TEXTURES, max_objects=self.max_objects
            )
            yield Example(
                image=scene.image, question=scenes.CAPTION_PROMPT, answer=short_caption(scene)
            )


def short_caption(scene: scenes.Scene) -> str:
    """Name colour and shape of every object: a shorter style than the embedded model's own."""
    names = [f"a {item.name}" for item in scene.objects]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def write_llava(examples: Iterable[Example], directory: Path, *, name: str = "train") -> Path:
    """Write examples as LLaVA JSON and PNG files.

    Parameters
    ----------
    examples
        What to write, in order; ids are the row numbers.
    directory
        Made if missing; gets ``<name>.json`` and ``images/``, where files are named by content,
        so that examples share the file of a shared image.
    name
        Stem of the JSON file.

    Returns
    -------
    Path
        The JSON file.
    """
    images_dir = directory / "images"
    images_dir.mkdir(parents=True, exist_ok=True)
    records = []
    for row, example in enumerate(examples):
        file_name = f"{hashlib.sha256(example.image.tobytes()).hexdigest()[:16]}.png"
        if not (images_dir / file_name).exists():
            example.image.save(images_dir / file_name, compress_level=1)
        records.append(
            {
                "id": row,
                "image": f"images/{file_name}",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{example.question}"},
                    {"from": "gpt", "value": example.answer},
                ],
            }
        )
    path = directory / f"{name}.json"
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path
