"""Kimi K2.5: multi-head latent attention."""

from __future__ import annotations

import transformers

from conformance.specimen import Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config, vision_config

WORD_IMAGE, MEDIA_CONTENT, NEWLINE = 212, 211, 210


@specimen("kimi_k25")
def kimi_k25(_name: str) -> Specimen:
    """Keys are wider than values; YaRN changes the scale of the logits."""
    config = transformers.Kimi_K25Config(
        text_config=text_config(
            "deepseek_v3",
            num_key_value_heads=4,
            head_dim=8,
            kv_lora_rank=16,
            q_lora_rank=32,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=16,
            first_k_dense_replace=1,
            moe_intermediate_size=32,
            n_group=1,
            n_routed_experts=4,
            num_experts_per_tok=2,
            topk_group=1,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 50_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 512,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        ),
        vision_config=vision_config("kimi_k25_vision", pos_emb_height=8, pos_emb_width=8),
        projection_hidden_size=32,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        **PLAIN_EXPERTS,
    )
    encode = GridEncoder(
        (3, 4, 4),
        has_token_types=False,
        before=(VISION_START, WORD_IMAGE, MEDIA_CONTENT),
        after=(VISION_END, NEWLINE),
    )
    model = draw(transformers.Kimi_K25ForConditionalGeneration(config))
    return Specimen(model, encode, has_sizes=True)
