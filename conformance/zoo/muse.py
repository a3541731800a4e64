"""Muse: scaled unit-length q and k, windows with rotation and full layers without."""

from __future__ import annotations

from typing import Any

import transformers

from conformance.specimen import Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, GridEncoder
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config, vision_config

IMAGE_START, IMAGE_END = 294, 293


@specimen("muse_glimmer", "muse_spark")
def muse(name: str) -> Specimen:
    """Three layers with a window of sixteen, then one without."""
    text = text_config(
        f"{name}_text",
        sliding_window=16,
        # As sharp with heads of 16 as the released models are with theirs.
        qk_scale_factor=2.7 if name == "muse_spark" else 1.4,
    )
    tower = vision_config(
        f"{name}_vision",
        pos_emb_height=8,
        pos_emb_width=8,
        max_position_embeddings=64,
        layer_types=["window_attention", "full_attention"],
    )
    ends = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "out_hidden_size": 128,
        "projector_hidden_size": 64,
    }
    config: Any
    model: Any
    if name == "muse_spark":
        config = transformers.MuseSparkConfig(
            text_config=text
            | {
                "moe_hidden_size": 32,
                "moe_intermediate_size": 32,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            },
            vision_config=tower,
            audio_config={
                "patch_sizes": [4, 4],
                "hidden_sizes": [8, 16],
                "depths": [1, 1],
                "num_hidden_layers": 2,
                "out_hidden_size": 64,
            },
            audio_token_id=297,
            **ends,
            **PLAIN_EXPERTS,
        )
        model = transformers.MuseSparkForConditionalGeneration(config)
    else:
        config = transformers.MuseGlimmerConfig(text_config=text, vision_config=tower, **ends)
        model = transformers.MuseGlimmerForConditionalGeneration(config)
    encode = GridEncoder(
        (3 * 2 * 4 * 4,), has_token_types=False, before=(IMAGE_START,), after=(IMAGE_END,)
    )
    return Specimen(draw(model), encode, has_sizes=True, remark="window of 16 in layers 0 to 2")
