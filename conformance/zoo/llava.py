"""LLaVA and its closest kin: one image, one run of image tokens, nothing between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

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

IMAGE = 299


@specimen("llava")
def llava(_name: str) -> Specimen:
    """Sixteen image tokens."""
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
        },
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return Specimen(draw_weights(LlavaForConditionalGeneration(config)), _encode)


def _encode(parts: Sequence[Part]) -> Prompt:
    ids: list[int] = []
    for part in parts:
        ids += [IMAGE] * 16 if isinstance(part, Picture) else list(part)
    inputs = {"input_ids": torch.tensor([ids])}
    pictures = [part for part in parts if isinstance(part, Picture)]
    if pictures:
        inputs["pixel_values"] = torch.cat([pixels(picture, 1, 3, 16, 16) for picture in pictures])
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)
