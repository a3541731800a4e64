"""Cohere Compass: a Qwen3-VL tower before a Cohere decoder, some layers without positions."""

from __future__ import annotations

from transformers import CohereCompassConfig, CohereCompassForConditionalGeneration

from conformance.specimen import Specimen, draw_weights, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder, mrope
from conformance.zoo.tiny import text_config

PATCH_SIZE = 4


@specimen("cohere_compass")
def cohere_compass(_name: str) -> Specimen:
    """Sliding windows with M-RoPE in turn with full attention without positions."""
    config = CohereCompassConfig(
        text_config=text_config(
            "cohere_compass_text",
            logit_scale=0.25,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"] * 2,
            rope_parameters={
                "sliding_attention": mrope(mrope_interleaved=True),
                "full_attention": None,
            },
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    model = draw_weights(CohereCompassForConditionalGeneration(config))
    return Specimen(model, GridEncoder((3 * 2 * PATCH_SIZE**2,)), has_sizes=True)
