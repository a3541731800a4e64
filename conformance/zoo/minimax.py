"""MiniMax M3: a mixture of experts whose attention may be sparse in blocks of keys."""

from __future__ import annotations

from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLConfig

from conformance.specimen import Specimen, draw_weights, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder
from conformance.zoo.tiny import PLAIN_EXPERTS, text_config

PATCH_SIZE = 4
SPARSE = "minimax_m3_vl, sparse"


@specimen("minimax_m3_vl", SPARSE)
def minimax_m3_vl(name: str) -> Specimen:
    """Encode grids of patches; the sparse variant selects four blocks of four keys."""
    attention = (
        ["full_attention", "minimax_m3_sparse"] if name == SPARSE else ["full_attention"] * 2
    )
    config = MiniMaxM3VLConfig(
        text_config=text_config(
            "minimax_m3_vl_text",
            dense_intermediate_size=64,
            shared_intermediate_size=32,
            intermediate_size=32,
            num_local_experts=4,
            num_experts_per_tok=4,
            rotary_dim=8,
            mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
            layer_types=attention * 2,
            index_n_heads=2,
            index_head_dim=16,
            index_block_size=4,
            index_topk_blocks=4,
        ),
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": PATCH_SIZE,
        },
        projector_hidden_size=64,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        **PLAIN_EXPERTS,
    )
    encode = GridEncoder(
        (3 * 2 * PATCH_SIZE**2,), has_token_types=False, before=(VISION_START,), after=(VISION_END,)
    )
    remark = "four blocks of four keys in layers 1 and 3" if name == SPARSE else ""
    model = draw_weights(MiniMaxM3SparseForConditionalGeneration(config))
    return Specimen(model, encode, has_sizes=True, remark=remark)
