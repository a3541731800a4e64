"""Gemma 3n, with a convolution in place of the MobileNet that timm would bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nVisionConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, specimen
from conformance.zoo.spelling import IMAGE, stacked_pixels
from conformance.zoo.tiny import pictures_of, spell, text_config

FIRST_VISION_ID, FIRST_AUDIO_ID = 270, 300
"""Token ids of vision, then audio, end the vocabulary and have embeddings of their own."""
BEGIN, END, NEWLINES = 269, 298, 200
PATCH_SIZE = 4


class TowerConfig(Gemma3nVisionConfig):
    """Of the stand-in for the tower."""

    model_type = "gemma3n_vision_stand_in"


class Tower(PreTrainedModel):
    """A convolution where timm's MobileNet would stand."""

    config_class = TowerConfig

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, PATCH_SIZE, PATCH_SIZE)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_kwargs: Any) -> BaseModelOutputWithPooling:
        """Give features as channels, rows and columns, as a convolutional tower does."""
        return BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values).tanh())


AutoModel.register(TowerConfig, Tower, exist_ok=True)


@specimen("gemma3n")
def gemma3n(_name: str) -> Specimen:
    """Sixteen image tokens; two layers with the keys of others; sliding windows; AltUp."""
    vision = TowerConfig(
        hidden_size=32,
        vocab_size=FIRST_AUDIO_ID - FIRST_VISION_ID,
        vocab_offset=FIRST_VISION_ID,
    )
    config = Gemma3nConfig(
        text_config=text_config(
            "gemma3n_text",
            vocab_size_per_layer_input=FIRST_VISION_ID,
            hidden_size_per_layer_input=16,
            laurel_rank=8,
            num_kv_shared_layers=2,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"] * 2,
            activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0],
        ),
        vision_config=vision,
        audio_config={
            "vocab_size": 4,
            "vocab_offset": FIRST_AUDIO_ID,
            "hidden_size": 32,
            "input_feat_size": 16,
            "conf_num_attention_heads": 4,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 8],
        },
        vision_soft_tokens_per_image=16,
        image_token_id=IMAGE,
        boi_token_id=BEGIN,
        eoi_token_id=END,
        audio_token_id=302,
        boa_token_id=268,
        eoa_token_id=303,
    )
    model = draw_weights(Gemma3nForConditionalGeneration(config))
    return Specimen(model, _encode, remark="one convolution for the vision tower, which is timm's")


def _spell_picture(_picture: Picture) -> list[int]:
    return [NEWLINES, BEGIN, *[IMAGE] * 16, END, NEWLINES]


def _encode(parts: Sequence[Part]) -> Prompt:
    input_ids = torch.tensor([spell(parts, _spell_picture)])
    is_image = input_ids == IMAGE
    inputs = {"input_ids": input_ids, "token_type_ids": is_image.long()}
    return Prompt(inputs | stacked_pixels(pictures_of(parts)), is_image[0])
