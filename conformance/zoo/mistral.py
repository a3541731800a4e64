"""Mistral decoders with latent keys and values; the pictures are Pixtral's."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralLarge4Config,
    MistralLarge4ForConditionalGeneration,
)

from conformance.specimen import Specimen, draw_weights, specimen
from conformance.zoo.pixtral import VISION, encode_rows
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import PLAIN_EXPERTS, text_config

LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
}
SPARSE = "mistral_large4, sparse"


@specimen("mistral4")
def mistral4(_name: str) -> Specimen:
    """Put the decoder, which knows text alone, into the class of Mistral 3, as Mistral Small 4."""
    config = Mistral3Config(
        text_config=text_config("mistral4", q_lora_rank=32, **LATENT),
        vision_config=VISION,
        image_token_index=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(Mistral3ForConditionalGeneration(config))
    return Specimen(model, encode_rows, has_sizes=True, remark="as decoder of Mistral 3's class")


@specimen("mistral_large4", SPARSE)
def mistral_large4(name: str) -> Specimen:
    """Let an indexer select all keys for each query, or two dozen."""
    config = MistralLarge4Config(
        text_config=text_config(
            "mistral_large4_text",
            index_topk=24 if name == SPARSE else 2048,
            index_head_dim=16,
            index_n_heads=2,
            indexer_types=["full", "shared", "full", "full"],
            no_rope_layers=[1, 1, 0, 1],
            kv_source_layers=[0, 0, 2, 3],
            **LATENT,
        ),
        vision_config=VISION,
        image_token_index=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(MistralLarge4ForConditionalGeneration(config))
    _scale_queries(model)
    remark = "24 keys a query" if name == SPARSE else "an indexer that selects every key"
    return Specimen(model, encode_rows, has_sizes=True, remark=remark)


def _scale_queries(model: Any) -> None:
    """Undo that queries are scaled by learnt vectors, drawn small, so that attention is uniform."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "softmax_scaling" in name:
                weight.add_(0.5)
