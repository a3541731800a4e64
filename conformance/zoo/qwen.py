"""Qwen2-VL to Qwen3.5, and the models that put a Qwen decoder and a Qwen vision tower together."""

from __future__ import annotations

from typing import Any

import transformers

from conformance.specimen import Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder, mrope
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config

PATCH = 3 * 2 * 4 * 4
"""Channels, frames, rows and columns of one flattened patch."""
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ONLY_LAST_IS_SOFTMAX = [
    "linear_attention",
    "linear_attention",
    "linear_attention",
    "full_attention",
]


def vision(**changes: Any) -> dict[str, Any]:
    """Give a vision tower of two layers."""
    return {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "intermediate_size": 64,
        "out_hidden_size": 64,
    } | changes


def windowed_vision(**changes: Any) -> dict[str, Any]:
    """Give the tower of Qwen2.5-VL: one layer sees windows of 2 x 2 image tokens, one sees all."""
    return vision(window_size=16, fullatt_block_indexes=[1], **changes)


@specimen("qwen2_vl")
def qwen2_vl(_name: str) -> Specimen:
    """M-RoPE in sections."""
    config = transformers.Qwen2VLConfig(
        text_config=text_config("qwen2_vl_text", rope_parameters=mrope()),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 4,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        **TOKENS,
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    return Specimen(draw(model), GridEncoder((PATCH,)), has_sizes=True)


@specimen("qwen2_5_vl")
def qwen2_5_vl(_name: str) -> Specimen:
    """As Qwen2-VL, with windows in the vision tower."""
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_config("qwen2_5_vl_text", rope_parameters=mrope()),
        vision_config=windowed_vision(),
        **TOKENS,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    return Specimen(draw(model), GridEncoder((PATCH,)), has_sizes=True)


@specimen("qwen3_vl", "qwen3_vl_moe", "cosmos3_omni")
def qwen3_vl(name: str) -> Specimen:
    """Interleaved M-RoPE, normalised q and k, image features added to the first layers' output."""
    family = "qwen3_vl" if name == "cosmos3_omni" else name
    text = text_config(f"{family}_text", rope_parameters=mrope(mrope_interleaved=True))
    tower = vision(
        model_type=f"{family}_vision", num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
    )
    config: Any
    model: Any
    if name == "qwen3_vl_moe":
        config = transformers.Qwen3VLMoeConfig(
            text_config=text | EXPERTS, vision_config=tower, **TOKENS, **PLAIN_EXPERTS
        )
        model = transformers.Qwen3VLMoeForConditionalGeneration(config)
    elif name == "cosmos3_omni":
        config = transformers.Cosmos3OmniConfig(text_config=text, vision_config=tower, **TOKENS)
        model = transformers.Cosmos3OmniForConditionalGeneration(config)
    else:
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=tower, **TOKENS)
        model = transformers.Qwen3VLForConditionalGeneration(config)
    return Specimen(draw(model), GridEncoder((PATCH,)), has_sizes=True)


@specimen("qwen3_5", "qwen3_5_moe")
def qwen3_5(name: str) -> Specimen:
    """Three layers of linear attention, then one of gated softmax attention."""
    text = text_config(
        f"{name}_text",
        layer_types=ONLY_LAST_IS_SOFTMAX,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        rope_parameters=mrope(mrope_interleaved=True, partial_rotary_factor=1.0),
    )
    tower = vision(num_position_embeddings=64)
    config: Any
    model: Any
    if name == "qwen3_5_moe":
        text |= EXPERTS | {"shared_expert_intermediate_size": 32}
        config = transformers.Qwen3_5MoeConfig(
            text_config=text, vision_config=tower, **TOKENS, **PLAIN_EXPERTS
        )
        model = transformers.Qwen3_5MoeForConditionalGeneration(config)
    else:
        config = transformers.Qwen3_5Config(text_config=text, vision_config=tower, **TOKENS)
        model = transformers.Qwen3_5ForConditionalGeneration(config)
    return Specimen(
        draw(model),
        GridEncoder((PATCH,)),
        read_attentions=lambda outputs: {3: outputs.attentions[-1]},
        has_sizes=True,
        remark="softmax attention in layer 3 only",
    )
