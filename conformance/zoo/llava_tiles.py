"""LLaVA-NeXT and its kin: the whole picture, then its tiles as one grid with a newline per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import pictures_of, text_config, vision_config

VIDEO = 298
SIDE = 16
PINPOINTS = [[16, 32], [32, 16], [32, 32]]
WHOLE = [True] * 16
"""The tokens of the picture as a whole: of patches all."""


@dataclass(frozen=True, slots=True)
class Form:
    """What becomes of a picture."""

    size: tuple[int, int]
    """Its own height and width."""
    tiles: int
    """How many, the whole among them."""
    grid: tuple[int, int]
    """Rows and columns of patches in all tiles together, without padding."""


SMALL, LARGE = Form((7, 30), 3, (2, 8)), Form((30, 31), 5, (8, 8))
"""The small one is so wide that its two tiles have a padded row of patches above and below."""
SHRUNK = Form((30, 31), 5, (5, 5))
"""The large one where no more than twice the patches of a tile are allowed."""


@specimen("llava_next", "llava_next_video")
def llava_next(name: str) -> Specimen:
    """Newlines stand under the image token too."""
    settings: dict[str, Any] = {
        "text_config": text_config("llama"),
        "vision_config": vision_config("clip_vision_model", image_size=SIDE),
        "image_token_index": IMAGE,
        "image_grid_pinpoints": PINPOINTS,
        "image_seq_length": 16,
    }
    if name == "llava_next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**settings))
    else:
        config = LlavaNextVideoConfig(video_token_index=VIDEO, **settings)
        model = LlavaNextVideoForConditionalGeneration(config)
    remark = "newlines under the image token"
    return Specimen(draw_weights(model), _encode_next, has_sizes=True, remark=remark)


@specimen("llava_onevision")
def llava_onevision(_name: str) -> Specimen:
    """Tile a picture that is alone, not one among several."""
    config = LlavaOnevisionConfig(
        text_config=text_config("qwen2"),
        vision_config=vision_config("siglip_vision_model", image_size=SIDE, vision_use_head=False),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
    )
    model = draw_weights(LlavaOnevisionForConditionalGeneration(config))
    remark = "newlines under the image token"
    return Specimen(model, _encode_onevision, has_sizes=True, remark=remark)


@specimen("granite4_vision")
def granite4_vision(_name: str) -> Specimen:
    """Image features enter before every layer; the embeddings of image tokens are zero."""
    config = Granite4VisionConfig(
        text_config=text_config("granite4_vision_text", attention_multiplier=0.25),
        # The projector has a head for every 64 channels.
        vision_config=vision_config("clip_vision_model", hidden_size=64, patch_size=2),
        qformer_config={"model_type": "blip_2_qformer", "vocab_size": 1, "intermediate_size": 64}
        | {"num_hidden_layers": 1, "cross_attention_frequency": 1, "use_qformer_text_input": False},
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        downsample_rate="2/4",
        deepstack_layer_map=[[-2, 0], [-1, 1]],
        spatial_target_layers=[0, 1, 2, 3],
    )
    model = draw_weights(Granite4VisionForConditionalGeneration(config))
    remark = "newlines under the image token; features enter at four layers"
    return Specimen(model, _encode_next, has_sizes=True, remark=remark)


def _encode_next(parts: Sequence[Part]) -> Prompt:
    return _encode(parts, lambda picture: LARGE if picture.is_large else SMALL)


def _encode_onevision(parts: Sequence[Part]) -> Prompt:
    pictures = pictures_of(parts)
    if len(pictures) > 1:
        prompt = _encode(parts, lambda _picture: Form((7, 30), 1, (0, 0)))
    else:
        prompt = _encode(parts, lambda picture: SHRUNK if picture.is_large else SMALL)
    if pictures:
        prompt.inputs["batch_num_images"] = torch.tensor([len(pictures)])
    return prompt


def _encode(parts: Sequence[Part], form: Callable[[Picture], Form]) -> Prompt:
    ids: list[int] = []
    patches: list[bool] = []
    for part in parts:
        are_patches = _patches(form(part)) if isinstance(part, Picture) else [False] * len(part)
        ids += [IMAGE] * len(are_patches) if isinstance(part, Picture) else part
        patches += are_patches
    forms = [(picture, form(picture)) for picture in pictures_of(parts)]
    return Prompt({"input_ids": torch.tensor([ids]), **_vision(forms)}, torch.tensor(patches))


def _patches(form: Form) -> list[bool]:
    """Which of a picture's tokens are patches: all but the newline after every row."""
    rows, columns = form.grid
    if form.tiles == 1:
        return [*WHOLE, False]
    return WHOLE + [*[True] * columns, False] * rows


def _vision(forms: Sequence[tuple[Picture, Form]]) -> dict[str, Tensor]:
    """Give the tiles of each picture, and empty ones up to the most that any has."""
    if not forms:
        return {}
    most = max(form.tiles for _, form in forms)
    tiles = [
        pad(pixels(picture, 1, form.tiles, 3, SIDE, SIDE), (0, 0) * 3 + (0, most - form.tiles))
        for picture, form in forms
    ]
    return {
        "pixel_values": torch.cat(tiles),
        "image_sizes": torch.tensor([form.size for _, form in forms]),
    }
