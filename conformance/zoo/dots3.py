"""Dots 3 Note: latent keys and values under an indexer, between layers of sliding windows."""

from __future__ import annotations

from transformers import Dots3NoteConfig, Dots3NoteForConditionalGeneration

from conformance.specimen import Specimen, draw_weights, specimen
from conformance.zoo.grids import IMAGE, VIDEO, GridEncoder
from conformance.zoo.tiny import PLAIN_EXPERTS, text_config

PATCH_SIZE = 4
LATENT = {
    "num_key_value_heads": 4,
    "head_dim": 16,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
SLIDING = {f"swa_{key}": value for key, value in (LATENT | {"num_attention_heads": 4}).items()}
SPARSE = "dots3_note, sparse"


@specimen("dots3_note", SPARSE)
def dots3_note(name: str) -> Specimen:
    """Let an indexer select all keys for each query, or two dozen."""
    config = Dots3NoteConfig(
        text_config=text_config(
            "dots3_note_text",
            moe_intermediate_size=32,
            shared_experts_intermediate_size=32,
            n_routed_experts=4,
            num_experts_per_tok=4,
            index_topk=24 if name == SPARSE else 2048,
            index_head_dim=16,
            index_n_heads=2,
            sliding_window=12,
            layer_types=["indexed_attention", "sliding_attention"] * 2,
            use_dsa=True,
            **LATENT,
            **SLIDING,
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": PATCH_SIZE,
            "mlp_layer_types": ["dense", "sparse"],
            "num_local_experts": 4,
            "adapter_in_dim": 32,
            "adapter_out_dim": 64,
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "feature_size": 16,
            "downsample_hidden_size": 8,
            "adapter_input_size": 32,
            "adapter_out_dim": 64,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=290,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(Dots3NoteForConditionalGeneration(config))
    encode = GridEncoder((3 * PATCH_SIZE**2,), has_token_types=False, before=(), after=())
    selection = "24 keys a query" if name == SPARSE else "an indexer that selects every key"
    return Specimen(model, encode, has_sizes=True, remark=f"{selection} in layers 0 and 2")
