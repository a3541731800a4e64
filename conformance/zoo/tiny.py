"""What specimens share: configurations small enough for milliseconds, and prompts in token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from conformance.specimen import VOCABULARY, Part, Picture, draw_weights

LAYERS = 4
"""Decoder layers of every specimen."""

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""A decoder of four layers, 64 wide, two query heads to a key head."""

SLIDING: dict[str, Any] = {
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
"""A picture near the end of the prompt is in sight of all layers, a far one of two."""

PLAIN_EXPERTS = {"experts_implementation": "eager"}
"""For the whole configuration of a mixture: the usual grouped product knows no float64."""


def text_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """Give the usual decoder under a type's name, with changes."""
    return TEXT | {"model_type": model_type} | changes


def vision_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """Give a vision tower of two layers, 32 wide, for sixteen patches of 4 by 4 pixels."""
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
        **changes,
    }


def pictures_of(parts: Sequence[Part]) -> list[Picture]:
    """Give the pictures of a prompt, in order."""
    return [part for part in parts if isinstance(part, Picture)]


def spell(parts: Sequence[Part], spell_picture: Callable[[Picture], Sequence[int]]) -> list[int]:
    """Write a prompt as token ids, pictures as their placeholders and what stands around them."""
    ids: list[int] = []
    for part in parts:
        ids += spell_picture(part) if isinstance(part, Picture) else part
    return ids


def draw(model: Any) -> Any:
    """Draw weights, and bring each norm back to the level it starts from.

    Not all norms have the word in their name, and some add one to their weight.
    """
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    scales = [scale for norm in norms if (scale := getattr(norm, "weight", None)) is not None]
    levels = [scale.mean() for scale in scales]
    draw_weights(model)
    with torch.no_grad():
        for scale, level in zip(scales, levels, strict=True):
            scale += (level - scale.mean()).round()
    return model
