"""Caption datasets of generated scenes, and their form on disk: LLaVA JSON beside image files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bye_audit.mini import scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image, what is asked about it and the answer to learn."""

    image: Image.Image
    question: str
    answer: str


def short_caption(scene: scenes.Scene) -> str:
    """Name colour and shape of every object: a shorter style than the embedded model's own."""
    names = [f"a {item.name}" for item in scene.objects]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def draw_captioned(count: int, *, seed: int) -> Iterator[Example]:
    """Draw scenes on textures the embedded model was not trained on, each with a short caption.

    Parameters
    ----------
    count
        Number of examples.
    seed
        Another seed gives other scenes; the same gives the same pixels.

    Yields
    ------
    Example
        With the one prompt of all captions.
    """
    rng = np.random.default_rng([seed, 0xCA97])
    for _ in range(count):
        scene = scenes.draw_scene(rng, textures=scenes.UNSEEN_TEXTURES)
        yield Example(
            image=scene.image, question=scenes.CAPTION_PROMPT, answer=short_caption(scene)
        )


def write_llava(examples: Iterable[Example], directory: Path, *, name: str = "train") -> Path:
    """Write examples as LLaVA JSON and PNG files.

    Parameters
    ----------
    examples
        What to write, in order; ids are the row numbers.
    directory
        Made if missing; gets ``<name>.json`` and ``images/``.
    name
        Stem of the JSON file and of the image files.

    Returns
    -------
    Path
        The JSON file.
    """
    images_dir = directory / "images"
    images_dir.mkdir(parents=True, exist_ok=True)
    records = []
    for row, example in enumerate(examples):
        file_name = f"{name}-{row:06d}.png"
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
