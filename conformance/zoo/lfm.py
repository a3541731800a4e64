"""Liquid's hybrids of short convolutions and attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from conformance.specimen import Part, Picture, Prompt, Specimen, pixels, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder
from conformance.zoo.tiny import draw, pictures_of, spell, text_config, vision_config

IMAGE_START, IMAGE_END, THUMBNAIL = 294, 293, 292
FIRST_TILE = 280
"""The first of the tokens that name the row and column of a tile."""
TILE = (6, 6)
THUMBNAIL_GRID = (8, 6)
MOST_PATCHES = 61
"""To which the patches of each crop are padded, whatever the batch."""


@specimen("lfm2_vl")
def lfm2_vl(_name: str) -> Specimen:
    """Large pictures are cut into two tiles, and a smaller copy of the whole is put after them."""
    config = transformers.Lfm2VlConfig(
        text_config=text_config(
            "lfm2",
            layer_types=["conv", "full_attention", "conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
        ),
        vision_config=vision_config("siglip2_vision_model", num_patches=36, vision_use_head=False),
        image_token_id=IMAGE,
        projector_hidden_size=64,
        downsample_factor=2,
    )
    return Specimen(
        draw(transformers.Lfm2VlForConditionalGeneration(config)),
        _encode_lfm2,
        read_attentions=lambda outputs: {1: outputs.attentions[0], 3: outputs.attentions[1]},
        has_sizes=True,
        remark="softmax attention in layers 1 and 3",
    )


def _encode_lfm2(parts: Sequence[Part]) -> Prompt:
    inputs = {"input_ids": torch.tensor([spell(parts, _lfm2_ids)])}
    crops = [
        (picture, number, grid)
        for picture in pictures_of(parts)
        for number, grid in enumerate(_lfm2_grids(picture))
    ]
    if crops:
        counts = torch.tensor([rows * columns for *_, (rows, columns) in crops])
        exists_CN = torch.arange(MOST_PATCHES) < counts[:, None]
        values_CNV = torch.stack(
            [
                pixels(Picture(7 * picture.seed + number, picture.is_large), MOST_PATCHES, 48)
                for picture, number, _ in crops
            ]
        )
        inputs["pixel_values"] = values_CNV * exists_CN[..., None]
        inputs["pixel_attention_mask"] = exists_CN.int()
        inputs["spatial_shapes"] = torch.tensor([grid for *_, grid in crops])
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)


def _lfm2_grids(picture: Picture) -> list[tuple[int, int]]:
    return [TILE, TILE, THUMBNAIL_GRID] if picture.is_large else [TILE]


def _lfm2_ids(picture: Picture) -> list[int]:
    names = [[FIRST_TILE], [FIRST_TILE + 1], [THUMBNAIL]] if picture.is_large else [[]]
    ids = [IMAGE_START]
    for name, (rows, columns) in zip(names, _lfm2_grids(picture), strict=True):
        ids += name + [IMAGE] * (rows * columns // 4)
    return [*ids, IMAGE_END]


@specimen("lfm3_vl")
def lfm3_vl(_name: str) -> Specimen:
    """One layer with a window and one without among convolutions, their outputs gated."""
    config = transformers.Lfm3VlConfig(
        text_config=text_config(
            "lfm3",
            layer_types=["conv", "sliding_attention", "full_attention", "conv"],
            sliding_window=16,
        ),
        vision_config=vision_config(
            "lfm3_vl_vision", num_key_value_heads=2, layer_types=["conv", "full_attention"]
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        projector_hidden_size=64,
    )
    return Specimen(
        draw(transformers.Lfm3VlForConditionalGeneration(config)),
        GridEncoder((3 * 2 * 4 * 4,), has_token_types=False),
        read_attentions=lambda outputs: {1: outputs.attentions[0], 2: outputs.attentions[1]},
        has_sizes=True,
        remark="softmax attention in layers 1 (window of 16) and 2",
    )
