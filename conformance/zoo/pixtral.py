"""Pictures of any size, patches of which four are merged; rows may end with a break token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt
from conformance.zoo.tiny import pictures_of, spell, text_config, vision_config
from conformance.zoo.weights import scale_queries

BREAK, END = 298, 297
MERGED_SIDE = 8
VISION = vision_config("pixtral", image_size=64, head_dim=8)


@specimen("mistral3")
def mistral3(_name: str) -> Specimen:
    """Break after each row of tokens, end after the last."""
    config = Mistral3Config(
        text_config=text_config("mistral", sliding_window=None),
        vision_config=VISION,
        image_token_index=IMAGE,
    )
    model = draw_weights(Mistral3ForConditionalGeneration(config))
    return Specimen(model, encode_rows, has_sizes=True)


@specimen("lighton_ocr")
def lighton_ocr(_name: str) -> Specimen:
    """Put the same tower before a Qwen 3 decoder, and nothing between rows."""
    config = LightOnOcrConfig(
        text_config=text_config("qwen3"), vision_config=VISION, image_token_id=IMAGE
    )
    model = scale_queries(draw_weights(LightOnOcrForConditionalGeneration(config)), 3)
    return Specimen(model, _encode_run, has_sizes=True)


def _grid(picture: Picture) -> tuple[int, int]:
    return (5, 6) if picture.is_large else (3, 4)


def _rows(picture: Picture) -> list[int]:
    rows, columns = _grid(picture)
    ids = [*[IMAGE] * columns, BREAK] * rows
    return [*ids[:-1], END]


def _run(picture: Picture) -> list[int]:
    rows, columns = _grid(picture)
    return [IMAGE] * (rows * columns)


def encode_rows(parts: Sequence[Part]) -> Prompt:
    """Spell a prompt whose pictures are rows with breaks between."""
    return prompt(spell(parts, _rows), **_vision(pictures_of(parts)))


def _encode_run(parts: Sequence[Part]) -> Prompt:
    return prompt(spell(parts, _run), **_vision(pictures_of(parts)))


def _vision(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """Pictures padded to the highest and the widest of them, and their own sizes."""
    if not pictures:
        return {}
    sizes = torch.tensor([_grid(picture) for picture in pictures]) * MERGED_SIDE
    most = sizes.amax(0)
    padded: list[Any] = []
    for picture, size in zip(pictures, sizes, strict=True):
        missing_rows, missing_columns = (most - size).tolist()
        padded.append(pad(pixels(picture, 1, 3, *size), (0, missing_columns, 0, missing_rows)))
    return {"pixel_values": torch.cat(padded), "image_sizes": sizes}
