"""Step 3.7: crops of a large picture, then the whole of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from conformance.specimen import Part, Picture, Prompt, Specimen, pixels, specimen
from conformance.zoo.grids import IMAGE
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, pictures_of, spell, text_config, vision_config

IMAGE_START, IMAGE_END = 296, 295
CROP_START, CROP_END, CROP_NEWLINE = 294, 293, 292
WHOLE_SIDE, CROP_SIDE = 48, 32
WHOLE_TOKENS, CROP_TOKENS = 9, 4
CROPS = 4
"""Two rows of two."""


@specimen("step3p7")
def step3p7(_name: str) -> Specimen:
    """Layers with a window have more query heads than those without; heads are gated."""
    config = transformers.Step3p7Config(
        text_config=text_config(
            "step3p5",
            layer_types=[
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            sliding_window=16,
            num_sliding_attention_heads=6,
            mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
            moe_intermediate_size=32,
            n_routed_experts=4,
            num_experts_per_tok=2,
            share_expert_dim=32,
        ),
        vision_config=vision_config("step3p5_vision", image_size=WHOLE_SIDE, mlp_ratio=2.0),
        image_token_id=IMAGE,
        **PLAIN_EXPERTS,
    )
    return Specimen(
        draw(transformers.Step3p7ForConditionalGeneration(config)),
        _encode,
        has_sizes=True,
        remark="window of 16 in layers 1 and 2",
    )


def _encode(parts: Sequence[Part]) -> Prompt:
    inputs = {"input_ids": torch.tensor([spell(parts, _ids)])}
    pictures = pictures_of(parts)
    if pictures:
        inputs["pixel_values"] = torch.cat(
            [pixels(picture, 1, 3, WHOLE_SIDE, WHOLE_SIDE) for picture in pictures]
        )
        inputs["num_local_patches"] = torch.tensor(
            [CROPS * picture.is_large for picture in pictures]
        )
    cut = [picture for picture in pictures if picture.is_large]
    if cut:
        inputs["pixel_values_local"] = torch.cat(
            [pixels(picture, CROPS, 3, CROP_SIDE, CROP_SIDE) for picture in cut]
        )
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)


def _ids(picture: Picture) -> list[int]:
    crop = [CROP_START, *[IMAGE] * CROP_TOKENS, CROP_END]
    crops = [*crop, *crop, CROP_NEWLINE, *crop, *crop] if picture.is_large else []
    return [*crops, IMAGE_START, *[IMAGE] * WHOLE_TOKENS, IMAGE_END]
