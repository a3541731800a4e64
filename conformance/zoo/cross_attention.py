"""Decoders that look at the image in layers of their own, on an axis of image features only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
import transformers
from torch import Tensor

from conformance.specimen import (
    VOCABULARY,
    Part,
    Picture,
    Prompt,
    Specimen,
    draw_weights,
    pixels,
    specimen,
)
from conformance.zoo.listening import listen
from conformance.zoo.tiny import LAYERS, pictures_of, spell, text_config

BOS = 1
TILES = 2
"""Every picture of Mllama is padded to this many tiles."""
TILE_FEATURES = 17
"""One of the class token and sixteen of the patches."""
MLLAMA_IMAGE = VOCABULARY
"""The image token of Mllama lies after the vocabulary, as in the real checkpoints."""
FAKE_TOKEN_AROUND_IMAGE, IDEFICS_IMAGE = 298, 299
LATENTS = 8


@specimen("mllama")
def mllama(_name: str) -> Specimen:
    """Layers 1 and 3 attend to the image; one or two tiles of it are real."""
    config = transformers.MllamaConfig(
        text_config=text_config(
            "mllama_text_model",
            cross_attention_layers=[1, 3],
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
            "max_num_tiles": TILES,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
        },
        image_token_index=MLLAMA_IMAGE,
    )
    model = draw_weights(transformers.MllamaForConditionalGeneration(config))
    _open_gates(model)
    return Specimen(
        model,
        _encode_mllama,
        lambda outputs: {layer: outputs.attentions[layer] for layer in (1, 3)},
        has_sizes=True,
        axis="image",
        remark="only the last picture, or the last run of adjacent ones, is visible",
    )


@specimen("idefics")
def idefics(_name: str) -> Specimen:
    """Gated cross-attention before every second layer, onto resampled features."""
    config = transformers.IdeficsConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={
            "embed_dim": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
        },
        perceiver_config={
            "resampler_n_latents": LATENTS,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
        },
    )
    model = draw_weights(transformers.IdeficsForVisionText2Text(config))
    _open_gates(model)
    blocks = model.model.gated_cross_attn_layers
    return Specimen(
        model,
        _encode_idefics,
        listen({2 * index: block.cross_attn for index, block in enumerate(blocks)}),
        axis="image",
        remark="only the last picture is visible; its features are resampler latents",
    )


def _open_gates(model: Any) -> None:
    """Let the image through: freshly drawn gates are nearly shut."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.numel() == 1 and ("gate" in name or "alpha" in name):
                weight.fill_(1)


def _encode_mllama(parts: Sequence[Part]) -> Prompt:
    first = list(takewhile(lambda part: isinstance(part, Picture), parts))
    ids = spell([*first, [BOS], *parts[len(first) :]], lambda _: [MLLAMA_IMAGE])
    pictures = pictures_of(parts)
    real_tiles = [TILES if picture.is_large else 1 for picture in pictures]
    # A prompt without a picture gets one picture of padding: so it looks in a batch with others.
    slots = max(len(pictures), 1)
    tiles = torch.zeros(1, slots, TILES, 3, 16, 16)
    ratio_ids = torch.zeros(1, slots, dtype=torch.long)
    ratio_mask = torch.zeros(1, slots, TILES, dtype=torch.long)
    ratio_mask[:, :, 0] = 1
    cross_mask = torch.zeros(1, len(ids), slots, TILES, dtype=torch.long)
    for index, (picture, count) in enumerate(zip(pictures, real_tiles, strict=True)):
        tiles[0, index, :count] = pixels(picture, count, 3, 16, 16)
        ratio_ids[0, index] = count
        ratio_mask[0, index, :count] = 1
        start, end = _readers_of_picture(ids, index)
        cross_mask[0, start:end, index, :count] = 1
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": tiles,
        "aspect_ratio_ids": ratio_ids,
        "aspect_ratio_mask": ratio_mask,
        "cross_attention_mask": cross_mask,
    }
    return Prompt(inputs, _spread(cross_mask[0, -1].flatten(), TILE_FEATURES))


def _readers_of_picture(ids: Sequence[int], index: int) -> tuple[int, int]:
    """Give the positions that see a picture: to the next one, or to where a run of them ends."""
    places = [place for place, token in enumerate(ids) if token == MLLAMA_IMAGE]
    ends = [*places[1:], len(ids)]
    end = index
    while end + 1 < len(places) and ends[end] == places[end] + 1:
        end += 1
    return places[index], ends[end]


def _encode_idefics(parts: Sequence[Part]) -> Prompt:
    ids = [BOS]
    was_picture = False
    for part in parts:
        if isinstance(part, Picture):
            ids += [] if was_picture else [FAKE_TOKEN_AROUND_IMAGE]
            ids += [IDEFICS_IMAGE, FAKE_TOKEN_AROUND_IMAGE]
        else:
            ids += part
        was_picture = isinstance(part, Picture)
    pictures = pictures_of(parts)
    slots = max(len(pictures), 1)
    images = [pixels(picture, 3, 16, 16) for picture in pictures] or [torch.zeros(3, 16, 16)]
    # Each position sees the picture it follows, and no other.
    latest_S = (torch.tensor(ids) == IDEFICS_IMAGE).cumsum(0) - 1
    image_mask = latest_S[:, None] == torch.arange(slots)
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": torch.stack(images)[None],
        "image_attention_mask": image_mask[None].long(),
    }
    return Prompt(inputs, _spread(image_mask[-1], LATENTS))


def _spread(is_seen: Tensor, features: int) -> Tensor:
    """Repeat what is said of a picture or a tile for each of its features."""
    return is_seen.bool().repeat_interleave(features)
