"""DeepSeek-OCR 2 and Unlimited-OCR: tiles, the whole picture, and a separator at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.separators import separated_prompt
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import PLAIN_EXPERTS, pictures_of, text_config

SIDE, PATCH_SIZE, DOWNSAMPLING = 64, 4, 4
"""Of whole pictures and of tiles alike; SAM makes four times four features of each."""
GRID = SIDE // PATCH_SIZE // DOWNSAMPLING
QUERIES = 144
"""DeepSeek-OCR 2 fixes them for pictures of up to as many features."""
TILES = 2
"""Of a large picture, side by side."""
SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH_SIZE,
    "window_size": 8,
    "global_attn_indexes": [1],
    "mlp_dim": 64,
    "downsample_channels": [16, 32],
}
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
EXPERTS = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}


@specimen("deepseek_ocr2")
def deepseek_ocr2(_name: str) -> Specimen:
    """As many image tokens as there are learnt queries: 144 for the whole and for each tile."""
    config = DeepseekOcr2Config(
        text_config=text_config("deepseek_ocr2_text", **EXPERTS),
        vision_config={
            "sam_config": SAM,
            "encoder_config": ENCODER | {"num_key_value_heads": 2, "vocab_size": 8},
        },
        image_token_id=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(DeepseekOcr2ForConditionalGeneration(config))
    remark = "a separator shares the image token's id; queries of the vision tower, no grid"
    return Specimen(model, _encode_queries, has_sizes=True, remark=remark)


@specimen("unlimited_ocr")
def unlimited_ocr(_name: str) -> Specimen:
    """Sixteen image tokens in rows that end with a separator; windows that the prompt evades."""
    config = UnlimitedOcrConfig(
        # Its own eager attention, unlike sdpa, does not repeat keys for groups of queries.
        text_config=text_config(
            "unlimited_ocr_text", num_key_value_heads=4, sliding_window=12, **EXPERTS
        ),
        vision_config={
            "sam_config": SAM,
            "encoder_config": ENCODER | {"image_size": SIDE, "patch_size": SIDE // GRID},
        },
        image_token_id=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(UnlimitedOcrForConditionalGeneration(config))
    model.register_forward_pre_hook(_list_tiles, with_kwargs=True)
    remark = "separators share the image token's id; the window spares the prompt"
    return Specimen(model, _encode_rows, has_sizes=True, remark=remark)


def _list_tiles(_model: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Turn the numbers of tiles into a list, as which the processor gives them."""
    if "num_local_patches" in inputs:
        inputs["num_local_patches"] = inputs["num_local_patches"].tolist()
    return args, inputs


def _tiles(picture: Picture) -> int:
    return TILES if picture.is_large else 0


def _queries(picture: Picture) -> list[bool]:
    return [*[True] * (QUERIES * (_tiles(picture) + 1)), False]


def _rows(picture: Picture) -> list[bool]:
    tiles = [*[True] * (GRID * _tiles(picture)), False] * (GRID if picture.is_large else 0)
    return [*tiles, *([*[True] * GRID, False] * GRID), False]


def _encode_queries(parts: Sequence[Part]) -> Prompt:
    return separated_prompt(parts, _queries, _vision(pictures_of(parts)))


def _encode_rows(parts: Sequence[Part]) -> Prompt:
    vision_inputs = _vision(pictures := pictures_of(parts))
    if pictures:
        grids = [(TILES if picture.is_large else 1, 1) for picture in pictures]
        vision_inputs["patches_grid"] = torch.tensor(grids)
    return separated_prompt(parts, _rows, vision_inputs)


def _vision(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    if not pictures:
        return {}
    inputs = {
        "pixel_values": torch.cat([pixels(picture, 1, 3, SIDE, SIDE) for picture in pictures]),
        "num_local_patches": torch.tensor([_tiles(picture) for picture in pictures]),
    }
    if large := [picture for picture in pictures if picture.is_large]:
        tiles = [-pixels(picture, TILES, 3, SIDE, SIDE) for picture in large]
        inputs["pixel_values_local"] = torch.cat(tiles)
    return inputs
