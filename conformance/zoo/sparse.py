"""Hybrids of linear attention and attention to the keys that an indexer selects."""

from __future__ import annotations

from typing import Any

import transformers

from conformance.specimen import Specimen, specimen
from conformance.zoo import glm, qwen
from conformance.zoo.grids import GridEncoder, mrope
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config

PATCH = 3 * 2 * 4 * 4


@specimen("qwen4_exp")
def qwen4_exp(_name: str) -> Specimen:
    """Two residual streams; a query sees its four best blocks of four keys and the last few."""
    config = transformers.Qwen4ExpConfig(
        text_config=text_config(
            "qwen4_exp_text",
            layer_types=[
                "linear_attention",
                "indexed_attention",
                "linear_attention",
                "indexed_attention",
            ],
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            shared_expert_intermediate_size=32,
            hc_count=2,
            hc_lowrank=8,
            ple_layer_ids=[1],
            heads_per_ngram=2,
            ngram_vocab_size_base=100,
            split_ngram_parts=1,
            indexer_n_heads=2,
            indexer_kv_heads=1,
            indexer_head_dim=16,
            indexer_budget=16,
            indexer_compress_ratio=4,
            rope_parameters=mrope(mrope_interleaved=True, partial_rotary_factor=1.0),
            **qwen.EXPERTS,
        ),
        vision_config=qwen.vision(model_type="qwen4_exp_vision", num_position_embeddings=64),
        **qwen.TOKENS,
        **PLAIN_EXPERTS,
    )
    return Specimen(
        draw(transformers.Qwen4ExpForConditionalGeneration(config)),
        GridEncoder((PATCH,)),
        read_attentions=lambda outputs: {1: outputs.attentions[0], 3: outputs.attentions[1]},
        has_sizes=True,
        remark="selected keys only, in layers 1 and 3",
    )


@specimen("glm5_next")
def glm5_next(_name: str) -> Specimen:
    """Latent attention without rotation; the second such layer shares the first one's selection."""
    tower: dict[str, Any] = glm.vision("glm5_next_vision", projection_intermediate_size=64)
    config = transformers.Glm5NextConfig(
        text_config=text_config(
            "glm5_next_text",
            num_key_value_heads=4,
            layer_types=[
                "linear_attention",
                "indexed_attention",
                "indexed_attention",
                "linear_attention",
            ],
            indexer_types=["full", "full", "shared", "full"],
            mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
            moe_intermediate_size=32,
            n_routed_experts=4,
            num_experts_per_tok=2,
            kv_lora_rank=16,
            q_lora_rank=32,
            qk_nope_head_dim=16,
            v_head_dim=16,
            linear_head_dim=16,
            linear_num_heads=4,
            hc_mult=2,
            index_n_heads=2,
            index_head_dim=16,
            index_topk=16,
            index_kpool=4,
        ),
        vision_config=tower,
        **glm.TOKENS,
        **PLAIN_EXPERTS,
    )
    return Specimen(
        draw(transformers.Glm5NextForConditionalGeneration(config)),
        glm.encode,
        read_attentions=lambda outputs: {1: outputs.attentions[0], 2: outputs.attentions[1]},
        has_sizes=True,
        remark="selected keys only, in layers 1 and 2",
    )
