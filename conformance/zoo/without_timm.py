"""Checkpoints of these look through timm towers; these look through others of the same output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
)

from conformance.specimen import Part, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt, stacked_pixels
from conformance.zoo.tiny import pictures_of, spell, text_config, vision_config

VIDEO = 298
TILES, TOKENS_PER_TILE = 3, 4


@specimen("fast_vlm")
def fast_vlm(_name: str) -> Specimen:
    """Flatten a convolutional feature map to sixteen image tokens."""
    config = FastVlmConfig(
        text_config=text_config("qwen2"),
        vision_config={
            "model_type": "convnext",
            "patch_size": 4,
            "num_stages": 2,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "hidden_size": 32,
        },
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    model = draw_weights(FastVlmForConditionalGeneration(config))
    return Specimen(model, _encode_run, remark="stand-in vision tower")


@specimen("perception_lm")
def perception_lm(_name: str) -> Specimen:
    """Pool the patches of three tiles of a picture to four image tokens each."""
    config = PerceptionLMConfig(
        text_config=text_config("llama"),
        vision_config=vision_config("clip_vision_model", model_args={"embed_dim": 32}),
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = draw_weights(PerceptionLMForConditionalGeneration(config))
    # Pictures are of one size: the processor cannot put unlike numbers of tiles in one tensor.
    return Specimen(model, _encode_tiles, remark="stand-in vision tower")


def _encode_run(parts: Sequence[Part]) -> Prompt:
    ids = spell(parts, lambda _picture: [IMAGE] * 16)
    return prompt(ids, **stacked_pixels(pictures_of(parts), side=32))


def _encode_tiles(parts: Sequence[Part]) -> Prompt:
    ids = spell(parts, lambda _picture: [IMAGE] * (TILES * TOKENS_PER_TILE))
    tiles = [pixels(picture, 1, TILES, 3, 16, 16) for picture in pictures_of(parts)]
    return prompt(ids, pixel_values=torch.cat(tiles)) if tiles else prompt(ids)
