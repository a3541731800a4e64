"""HunYuan-VL: the vision tower itself puts newlines and borders between the patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from conformance.specimen import Part, Picture, Prompt, Specimen, pixels, specimen
from conformance.zoo.grids import IMAGE, VISION_END, VISION_START
from conformance.zoo.tiny import draw, pictures_of, spell, text_config, vision_config

GRIDS = ((6, 6), (8, 12))
"""Rows and columns of patches, four of which make a token, of a small and of a large picture."""


@specimen("hunyuan_vl")
def hunyuan_vl(_name: str) -> Specimen:
    """Four axes of rotation, by place in the text, column, row and number of the image."""
    config = transformers.HunYuanVLConfig(
        text_config=text_config(
            "hunyuan_vl_text",
            rope_parameters={
                "rope_type": "dynamic",
                # Images are numbered through the batch; the slowest axis turns by that number. With
                # so large a base a prompt has the same attention alone and in a batch, nearly.
                "rope_theta": 10_000_000.0,
                "alpha": 1000.0,
                "factor": 1.0,
                "mrope_section": [2, 2, 2, 2],
            },
        ),
        vision_config=vision_config(
            "hunyuan_vl_vision", max_image_size=32, out_hidden_size=64, spatial_merge_size=2
        ),
        image_token_id=IMAGE,
        im_start_id=VISION_START,
        im_end_id=VISION_END,
        im_newline_id=294,
    )
    return Specimen(
        draw(transformers.HunYuanVLForConditionalGeneration(config)),
        _encode,
        has_sizes=True,
        remark="borders and newlines share the image token's id",
    )


def _encode(parts: Sequence[Part]) -> Prompt:
    inputs = {"input_ids": torch.tensor([spell(parts, _ids)])}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    grids = [(picture, *GRIDS[picture.is_large]) for picture in pictures_of(parts)]
    if grids:
        inputs["pixel_values"] = torch.cat(
            [pixels(picture, rows * columns, 3 * 4 * 4) for picture, rows, columns in grids]
        )
        inputs["image_grid_thw"] = torch.tensor([[1, *grid] for _, *grid in grids])
    is_patch_S = [
        flag
        for part in parts
        for flag in (_are_patches(part) if isinstance(part, Picture) else [False] * len(part))
    ]
    return Prompt(inputs, torch.tensor(is_patch_S))


def _are_patches(picture: Picture) -> list[bool]:
    """Of all tokens of a picture, whether they show it; each row of patches ends in a newline."""
    rows, columns = (side // 2 for side in GRIDS[picture.is_large])
    row = [True] * columns + [False]
    return [False, False, *row * rows, False, False]


def _ids(picture: Picture) -> list[int]:
    inside = len(_are_patches(picture)) - 2
    return [VISION_START, *[IMAGE] * inside, VISION_END]
