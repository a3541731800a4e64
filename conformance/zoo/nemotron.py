"""Nemotron Omni: Mamba, softmax attention and experts as layers of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import NemotronH_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3_Config

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt
from conformance.zoo.tiny import PLAIN_EXPERTS, pictures_of, spell, text_config

BEGIN, END = 298, 297
PATCH_SIZE, MERGE = 4, 2


@specimen("nemotron_h_omni")
def nemotron_h_omni(_name: str) -> Specimen:
    """Two layers of softmax attention without positions, among four."""
    config = NemotronH_Omni_Reasoning_V3_Config(
        text_config=text_config(
            "nemotron_h",
            layers_block_type=["linear_attention", "full_attention", "moe", "full_attention"],
            ssm_state_size=8,
            mamba_num_heads=8,
            mamba_head_dim=16,
            n_groups=2,
            chunk_size=16,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=32,
            n_routed_experts=4,
            num_experts_per_tok=4,
        ),
        vision_config={
            "model_type": "radio",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_ratio": 2.0,
            "patch_size": PATCH_SIZE,
            "image_size": 32,
            "max_img_size": 64,
            "video_temporal_patch_size": 2,
        },
        audio_config=None,
        vision_hidden_size=32,
        projector_hidden_size=64,
        image_token_id=IMAGE,
        video_token_id=296,
        audio_token_id=295,
        **PLAIN_EXPERTS,
    )
    return Specimen(
        draw_weights(NemotronH_Omni_Reasoning_V3(config)),
        _encode,
        read_attentions=lambda outputs: dict(zip((1, 3), outputs.attentions, strict=True)),
        has_sizes=True,
        remark="softmax attention in layers 1 and 3 only",
    )


def _grid(picture: Picture) -> tuple[int, int]:
    """Rows and columns of image tokens."""
    return (4, 6) if picture.is_large else (3, 4)


def _spell_picture(picture: Picture) -> list[int]:
    rows, columns = _grid(picture)
    return [BEGIN, *[IMAGE] * (rows * columns), END]


def _encode(parts: Sequence[Part]) -> Prompt:
    vision = {}
    if pictures := pictures_of(parts):
        grids = torch.tensor([_grid(picture) for picture in pictures]) * MERGE
        patches = [
            pixels(picture, int(grid.prod()), 3 * PATCH_SIZE**2)
            for picture, grid in zip(pictures, grids, strict=True)
        ]
        vision = {"pixel_values": torch.cat(patches), "image_grid_hw": grids}
    return prompt(spell(parts, _spell_picture), **vision)
