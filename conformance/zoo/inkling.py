"""Inkling: relative positions as a bias, short convolutions before keys and values, windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    Inkling2Config,
    Inkling2ForConditionalGeneration,
    InklingConfig,
    InklingForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt
from conformance.zoo.tiny import PLAIN_EXPERTS, pictures_of, spell, text_config

BEGIN = 298
SIDE = 4
"""Of the square of pixels that becomes one image token."""
SINGLE = {"InklingShortConvolution", "Inkling2ShortConvolution", "Inkling2TopKRouter"}
TEXT = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 12,
    "d_rel": 4,
    "rel_extent": 32,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 4,
}


@specimen("inkling_mm_model")
def inkling(_name: str) -> Specimen:
    """Each square of pixels is embedded for itself, twice in time."""
    config = InklingConfig(
        text_config=text_config(
            "inkling_text",
            mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
            n_shared_experts=1,
            **TEXT,
        ),
        vision_config={"patch_size": SIDE, "num_hidden_layers": 4},
        audio_config={"n_mel_bins": 4, "mel_vocab_size": 4},
        image_token_id=IMAGE,
        image_bos_token_id=BEGIN,
        audio_token_id=297,
        audio_bos_token_id=296,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(InklingForConditionalGeneration(config))
    _sharpen(model)
    _keep_single(model)
    return Specimen(model, _encode_squares, has_sizes=True, remark="a bias by relative position")


@specimen("inkling2")
def inkling2(_name: str) -> Specimen:
    """Add a sink that depends on the query, in every layer; attention is eager alone."""
    config = Inkling2Config(
        text_config=text_config(
            "inkling2_text", unpadded_vocab_size=300, n_layers_per_attn_res_block=2, **TEXT
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": SIDE // 2,
            "spatial_merge_size": 2,
            "posemb_grid_size": 8,
            "projection_hidden_dim": 64,
            "text_hidden_size": 64,
        },
        image_token_id=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(Inkling2ForConditionalGeneration(config))
    _sharpen(model)
    _keep_single(model)
    remark = "a bias by relative position; sinks that depend on the query"
    return Specimen(model, _encode_grids, has_sizes=True, remark=remark)


def _sharpen(model: Any) -> None:
    """Make up for scores that are divided by the width of a head rather than by its root."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_norm.weight", "q_l2_clip.scale")):
                weight.abs_().add_(4)
            elif name.endswith("rel_logits_proj.proj"):
                weight.mul_(10)


def _keep_single(model: Any) -> None:
    """Let modules that cast what they are given to float32 have such weights always."""
    for module in model.modules():
        if type(module).__name__ in SINGLE:
            module.register_forward_pre_hook(_cast_weights)


def _cast_weights(module: Any, _inputs: Any) -> None:
    module.float()


def _grid(picture: Picture) -> tuple[int, int]:
    return (4, 6) if picture.is_large else (3, 4)


def _squares(picture: Picture) -> int:
    rows, columns = _grid(picture)
    return rows * columns


def _spell_picture(picture: Picture) -> list[int]:
    return [BEGIN, *[IMAGE] * _squares(picture)]


def _encode_squares(parts: Sequence[Part]) -> Prompt:
    squares = [
        pixels(picture, _squares(picture), 1, SIDE, SIDE, 3).expand(-1, 2, -1, -1, -1)
        for picture in pictures_of(parts)
    ]
    vision = {"pixel_values": torch.cat(squares)} if squares else {}
    return prompt(spell(parts, _spell_picture), **vision)


def _encode_grids(parts: Sequence[Part]) -> Prompt:
    pictures = pictures_of(parts)
    vision = {}
    if pictures:
        squares = [pixels(picture, _squares(picture), SIDE, SIDE, 3) for picture in pictures]
        vision["pixel_values"] = torch.cat(squares)
        vision["image_grid_thw"] = torch.tensor([[1, *_grid(picture)] for picture in pictures])
    return prompt(spell(parts, _spell_picture), **vision)
