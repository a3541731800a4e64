"""Idefics 2 and 3, SmolVLM and Granite Docling: pictures of a prompt along an axis of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    GraniteDoclingConfig,
    GraniteDoclingForConditionalGeneration,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt
from conformance.zoo.tiny import pictures_of, spell, text_config, vision_config

AROUND, WHOLE, NEWLINE, NEWLINES = 298, 297, 296, 295
TOP, BOTTOM = 280, 286
"""The tokens of the first and of the second row's only tile."""
SIDE = 32
TILE = [IMAGE] * 16


@specimen("idefics2")
def idefics2(_name: str) -> Specimen:
    """Sixteen latent queries read a picture of any size."""
    config = Idefics2Config(
        text_config=text_config("mistral"),
        vision_config=vision_config("idefics2_vision", image_size=SIDE),
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 16,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        image_token_id=IMAGE,
    )
    model = draw_weights(Idefics2ForConditionalGeneration(config))
    return Specimen(model, _encode_untiled, remark="image tokens are latent queries")


@specimen("idefics3", "smolvlm")
def idefics3(name: str) -> Specimen:
    """Tiles named by row and column, then the whole picture."""
    settings: dict[str, Any] = {
        "text_config": text_config("llama"),
        "vision_config": vision_config(f"{name}_vision", image_size=SIDE),
        "image_token_id": IMAGE,
        "pad_token_id": 0,
    }
    if name == "idefics3":
        model = Idefics3ForConditionalGeneration(Idefics3Config(**settings))
    else:
        model = SmolVLMForConditionalGeneration(SmolVLMConfig(**settings))
    return Specimen(draw_weights(model), TileEncoder(_whole_or_tiles), has_sizes=True)


@specimen("granite_docling")
def granite_docling(_name: str) -> Specimen:
    """Image features are added to the output of the first layers too."""
    config = GraniteDoclingConfig(
        text_config=text_config("granite_docling_text", attention_multiplier=0.25),
        vision_config=vision_config(
            "granite_docling_vision",
            image_size=SIDE,
            out_hidden_size=64,
            scale_factor=2,
            deepstack_visual_indexes=[0, 1],
            use_fine_route=False,
        ),
        image_token_id=IMAGE,
        pad_token_id=0,
    )
    model = draw_weights(GraniteDoclingForConditionalGeneration(config))
    encode = TileEncoder(_page, has_pixel_mask=False)
    return Specimen(model, encode, has_sizes=True, remark="features enter at three layers")


@dataclass(frozen=True, slots=True)
class TileEncoder:
    """Encode prompts with all tiles of all pictures on the second axis of ``pixel_values``.

    A small picture is one tile; a large one is two tiles above one another, and the whole.
    """

    spelling: Callable[[Picture], Sequence[int]]
    has_pixel_mask: bool = True
    """Whether the mask is over pixels, not over tiles."""

    def __call__(self, parts: Sequence[Part]) -> Prompt:
        """One prompt, without padding."""
        tiles = [
            pixels(picture, 1, 3 if picture.is_large else 1, 3, SIDE, SIDE)
            for picture in pictures_of(parts)
        ]
        inputs: dict[str, Tensor] = {}
        if tiles:
            values = torch.cat(tiles, dim=1)
            mask = torch.ones_like(values[:, :, 0], dtype=torch.long)
            inputs["pixel_values"] = values
            inputs["pixel_attention_mask"] = mask if self.has_pixel_mask else mask[..., 0, 0].bool()
        return prompt(spell(parts, self.spelling), **inputs)


def _whole_or_tiles(picture: Picture) -> list[int]:
    tiles = [AROUND, TOP, *TILE, NEWLINE, AROUND, BOTTOM, *TILE, NEWLINES]
    return [*(tiles if picture.is_large else []), AROUND, WHOLE, *TILE, AROUND]


def _page(picture: Picture) -> list[int]:
    if not picture.is_large:
        return [AROUND, TOP, *TILE, NEWLINE]
    return _whole_or_tiles(picture)


def _encode_untiled(parts: Sequence[Part]) -> Prompt:
    """Pictures differ in size, not in tokens; neighbours share the token around them."""
    ids: list[int] = []
    for token in spell(parts, lambda _picture: [AROUND, *TILE, AROUND]):
        if token != AROUND or ids[-1:] != [AROUND]:
            ids.append(token)
    pictures = pictures_of(parts)
    if not pictures:
        return prompt(ids)
    heights = [SIDE if picture.is_large else SIDE // 2 for picture in pictures]
    values = [
        pad(pixels(picture, 1, 1, 3, height, SIDE), (0, 0, 0, max(heights) - height))
        for picture, height in zip(pictures, heights, strict=True)
    ]
    mask = torch.zeros(1, len(pictures), max(heights), SIDE, dtype=torch.long)
    for index, height in enumerate(heights):
        mask[:, index, :height] = 1
    return prompt(ids, pixel_values=torch.cat(values, dim=1), pixel_attention_mask=mask)
