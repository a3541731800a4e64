"""Molmo 2: image tokens see each other both ways, and features are added to their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from conformance.specimen import Part, Picture, Prompt, Specimen, pixels, specimen
from conformance.zoo.tiny import draw, pictures_of, spell, text_config

PATCH, COLUMN_END, START, LOW_START, END = 299, 298, 297, 296, 295
FRAME_START, FRAME_END = 294, 293
BEGIN = 1
SIDE = 6
"""Rows and columns of patches of a crop; 2 x 2 are pooled to a token."""


@specimen("molmo2")
def molmo2(_name: str) -> Specimen:
    """Show a low view of 3 x 3 tokens, then a high one of 3 x 3, or of 5 x 3 from two crops."""
    config = transformers.Molmo2Config(
        text_config=text_config("molmo2_text", vocab_size=284, additional_vocab_size=16),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 4,
            "image_size": [4 * SIDE, 4 * SIDE],
        },
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "intermediate_size": 64,
            "text_hidden_size": 64,
        },
        image_patch_id=PATCH,
        image_start_token_id=START,
        low_res_image_start_token_id=LOW_START,
        image_end_token_id=END,
        frame_start_token_id=FRAME_START,
        frame_end_token_id=FRAME_END,
    )
    model = draw(transformers.Molmo2ForConditionalGeneration(config))
    _let_image_show(model)
    return Specimen(
        model,
        _encode,
        has_sizes=True,
        remark="image tokens see each other both ways; pooling counts patches through the batch",
    )


def _let_image_show(model: Any) -> None:
    """Make features large beside the embedding of the image token, to which they are added."""
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            weight *= 2.2


def _encode(parts: Sequence[Part]) -> Prompt:
    ids_BS = torch.tensor([[BEGIN, *spell(parts, _ids)]])
    about_image = torch.tensor([PATCH, COLUMN_END, START, LOW_START, END, FRAME_START, FRAME_END])
    inputs = {"input_ids": ids_BS, "mm_token_type_ids": torch.isin(ids_BS, about_image).long()}
    pictures = pictures_of(parts)
    if pictures:
        crops = [2 + picture.is_large for picture in pictures]
        offsets = [SIDE**2 * sum(crops[:number]) for number in range(len(crops))]
        inputs["pixel_values"] = torch.cat(
            [
                pixels(picture, count, SIDE**2, 3 * 4 * 4)
                for picture, count in zip(pictures, crops, strict=True)
            ]
        )
        inputs["image_token_pooling"] = torch.cat(
            [
                index + offset
                for picture, offset in zip(pictures, offsets, strict=True)
                for index in _pooled(picture)
            ]
        )
        inputs["image_grids"] = torch.tensor([[3, 3, *_high(picture)] for picture in pictures])
        inputs["image_num_crops"] = torch.tensor(crops)
    return Prompt(inputs, ids_BS[0] == PATCH)


def _high(picture: Picture) -> tuple[int, int]:
    """Rows and columns of tokens of the high view."""
    return (5, 3) if picture.is_large else (3, 3)


def _ids(picture: Picture) -> list[int]:
    rows, columns = _high(picture)
    row = [*[PATCH] * columns, COLUMN_END]
    return [LOW_START, *row * 3, END, START, *row * rows, END]


def _pooled(picture: Picture) -> tuple[Tensor, Tensor]:
    """Numbers of the patches that each token of the low and of the high view pools.

    The two crops of a large picture overlap by two rows: ten rows of patches in all.
    """
    low = torch.arange(SIDE**2).view(SIDE, SIDE)
    high = low + SIDE**2
    if picture.is_large:
        high = torch.cat([high[:5], low[1:] + 2 * SIDE**2])
    return _squares(low), _squares(high)


def _squares(numbers: Tensor) -> Tensor:
    rows, columns = numbers.shape
    cut = numbers.view(rows // 2, 2, columns // 2, 2).transpose(1, 2)
    return cut.reshape(-1, 4)
