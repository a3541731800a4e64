"""The GLM vision family: Qwen-like grids, interleaved rotation, M-RoPE."""

from __future__ import annotations

from typing import Any

import transformers

from conformance.specimen import Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, GridEncoder, mrope
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config

PATCH = 3 * 2 * 4 * 4
IMAGE_START, IMAGE_END = 294, 293
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": IMAGE_START,
    "image_end_token_id": IMAGE_END,
    "video_start_token_id": 292,
    "video_end_token_id": 291,
}
encode = GridEncoder((PATCH,), before=(IMAGE_START,), after=(IMAGE_END,))


def vision(model_type: str, **changes: Any) -> dict[str, Any]:
    """Give a vision tower of two layers."""
    return {
        "model_type": model_type,
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "intermediate_size": 64,
        "out_hidden_size": 64,
    } | changes


@specimen("glm4v", "glm46v", "glmga", "glm_ocr")
def glm4v(name: str) -> Specimen:
    """Dense decoders."""
    family = "glm_ocr" if name == "glm_ocr" else "glm4v"
    text = text_config(f"{family}_text", rope_parameters=mrope(partial_rotary_factor=1.0))
    configs: dict[str, Any] = {
        "glm4v": transformers.Glm4vConfig,
        "glm46v": transformers.Glm46VConfig,
        "glmga": transformers.GlmgaConfig,
        "glm_ocr": transformers.GlmOcrConfig,
    }
    config = configs[name](text_config=text, vision_config=vision(f"{family}_vision"), **TOKENS)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    return Specimen(draw(model), encode, has_sizes=True)


@specimen("glm4v_moe")
def glm4v_moe(_name: str) -> Specimen:
    """Build a dense layer and three of experts; a half of each head rotates."""
    text = text_config(
        "glm4v_moe_text",
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        rope_parameters=mrope(mrope_section=[2, 1, 1], partial_rotary_factor=0.5),
    )
    config = transformers.Glm4vMoeConfig(
        text_config=text, vision_config=vision("glm4v_moe_vision"), **TOKENS, **PLAIN_EXPERTS
    )
    model = transformers.Glm4vMoeForConditionalGeneration(config)
    return Specimen(draw(model), encode, has_sizes=True)
