"""Gemma 4: sliding windows; some checkpoints share keys, some let image tokens see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
)

from conformance.specimen import (
    VOCABULARY,
    Part,
    Picture,
    Prompt,
    Specimen,
    draw_weights,
    pixels,
    specimen,
)
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import pictures_of, spell, text_config
from conformance.zoo.weights import scale_queries

VIDEO, AUDIO, BEGIN, END = 298, 297, 296, 295
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "audio_token_id": AUDIO,
    "boi_token_id": BEGIN,
    "eoi_token_id": END,
    "boa_token_id": 294,
    "eoa_token_index": 293,
}
MOST_TOKENS, POOLING, PATCH_SIZE = 25, 2, 2
"""The processor pads every image to the most tokens, whatever its own grid."""
SLIDING = {
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "global_head_dim": 32,
}


@specimen("gemma4")
def gemma4(_name: str) -> Specimen:
    """Like the small checkpoints: embeddings per layer, two layers with the keys of others."""
    config = Gemma4Config(
        text_config=text_config(
            "gemma4_text",
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=16,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            **SLIDING,
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": PATCH_SIZE,
            "pooling_kernel_size": POOLING,
            "position_embedding_size": 64,
        },
        audio_config=None,
        **TOKENS,
    )
    model = scale_queries(draw_weights(Gemma4ForConditionalGeneration(config)), 0.5)
    return Specimen(model, _encode_patches, has_sizes=True, remark="two of four layers share keys")


@specimen("gemma4_unified")
def gemma4_unified(_name: str) -> Specimen:
    """No vision tower; image tokens of one picture see each other."""
    config = Gemma4UnifiedConfig(
        text_config=text_config(
            "gemma4_unified_text", use_bidirectional_attention="vision", **SLIDING
        ),
        vision_config={
            "patch_size": PATCH_SIZE,
            "pooling_kernel_size": POOLING,
            "mm_embed_dim": 32,
            "mm_posemb_size": 64,
            "output_proj_dims": 32,
        },
        audio_config=None,
        **TOKENS,
    )
    model = scale_queries(draw_weights(Gemma4UnifiedForConditionalGeneration(config)), 0.5)
    return Specimen(model, _encode_merged_patches, has_sizes=True, remark="bidirectional images")


def _grid(picture: Picture) -> tuple[int, int]:
    return (4, 6) if picture.is_large else (3, 4)


def _padded_grids(pictures: Sequence[Picture], stride: int, width: int) -> dict[str, Tensor]:
    """Patches and their places (x, y), padded to the processor's budget."""
    most = MOST_TOKENS * stride**2
    values, places = [], []
    for picture in pictures:
        rows, columns = (stride * side for side in _grid(picture))
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1)
        missing = most - rows * columns
        values.append(pad(pixels(picture, rows * columns, width), (0, 0, 0, missing)))
        places.append(pad(place, (0, 0, 0, missing), value=-1))
    return {"pixel_values": torch.stack(values), "image_position_ids": torch.stack(places)}


def _encode_patches(parts: Sequence[Part]) -> Prompt:
    return _encode(parts, stride=POOLING, width=3 * PATCH_SIZE**2)


def _encode_merged_patches(parts: Sequence[Part]) -> Prompt:
    return _encode(parts, stride=1, width=3 * (POOLING * PATCH_SIZE) ** 2)


def _encode(parts: Sequence[Part], **patches: Any) -> Prompt:
    def spell_picture(picture: Picture) -> list[int]:
        rows, columns = _grid(picture)
        return [BEGIN, *[IMAGE] * (rows * columns), END]

    input_ids = torch.tensor([spell(parts, spell_picture)])
    is_image = input_ids == IMAGE
    inputs = {"input_ids": input_ids, "mm_token_type_ids": is_image.long()}
    if pictures := pictures_of(parts):
        inputs |= _padded_grids(pictures, **patches)
    return Prompt(inputs, is_image[0])
