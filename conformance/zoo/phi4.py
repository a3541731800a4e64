"""Phi-4 multimodal: tiles, then the whole picture, with a separator after every row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.separators import separated_prompt
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import TEXT, pictures_of

CROP, PATCH_SIZE = 16, 2
CROP_PATCHES = CROP // PATCH_SIZE
EMPTY_ROWS = 2
"""Rows of patches that pad a picture to whole crops: two of the eight."""
TOKEN_ROWS, TOKEN_COLUMNS = (CROP_PATCHES - EMPTY_ROWS) // 2, CROP_PATCHES // 2


@specimen("phi4_multimodal")
def phi4_multimodal(_name: str) -> Specimen:
    """28 or 40 patches among 36 or 48 tokens of the same id."""
    config = Phi4MultimodalConfig(
        **TEXT,
        original_max_position_embeddings=2048,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": CROP,
            "patch_size": PATCH_SIZE,
            "crop_size": CROP,
            "image_token_id": IMAGE,
        },
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_blocks": 1,
            "num_attention_heads": 4,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 8,
            "audio_token_id": 298,
        },
    )
    model = draw_weights(Phi4MultimodalForCausalLM(config))
    return Specimen(model, _encode, has_sizes=True, remark="separators share the image token's id")


def _crops(picture: Picture) -> int:
    return 2 if picture.is_large else 1


def _patches(picture: Picture) -> list[bool]:
    """Tiles side by side, a separator, the whole picture; a separator after each row."""
    tiles = [*[True] * (TOKEN_COLUMNS * _crops(picture)), False] * TOKEN_ROWS
    whole = [*[True] * TOKEN_COLUMNS, False] * TOKEN_COLUMNS
    return [*tiles, False, *whole]


def _encode(parts: Sequence[Part]) -> Prompt:
    return separated_prompt(parts, _patches, _vision(pictures_of(parts)))


def _vision(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """Give whole pictures and their crops, as many for each as for the largest.

    The crops' masks leave out rows that pad the picture. With nothing left out the mask would be
    dropped, and the tower's attention, which says that it is causal, would be so under sdpa and
    not under eager.
    """
    if not pictures:
        return {}
    most = 1 + max(map(_crops, pictures))
    values = torch.zeros(len(pictures), most, 3, CROP, CROP)
    masks = torch.ones(len(pictures), most, CROP_PATCHES, CROP_PATCHES)
    for picture, value, mask in zip(pictures, values, masks, strict=True):
        crops = _crops(picture)
        value[: 1 + crops] = pixels(picture, 1 + crops, 3, CROP, CROP)
        mask[1 : 1 + crops, -EMPTY_ROWS:] = 0
    return {
        "image_pixel_values": values,
        "image_attention_mask": masks,
        "image_sizes": torch.tensor([[CROP, CROP * _crops(picture)] for picture in pictures]),
    }
