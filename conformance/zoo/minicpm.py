"""MiniCPM-V: a picture and its slices, patches of all of them in one row; a hybrid decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import torch
import transformers

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import pictures_of, spell, text_config

VIDEO, IMAGE_START, IMAGE_END, SLICE_START, SLICE_END = 298, 297, 296, 295, 294
ID_START, ID_END, FIRST_DIGIT, NEWLINE = 293, 292, 210, 200
PATCH_SIZE = 4
LAYER_TYPES = ["linear_attention", "full_attention"] * 2
MARKERS = {
    "image_start_id": IMAGE_START,
    "image_end_id": IMAGE_END,
    "slice_start_id": SLICE_START,
    "slice_end_id": SLICE_END,
    "newline_id": NEWLINE,
}
"""MiniCPM-V 4.7 alone lays positions out on a canvas, by these tokens."""


@specimen("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
def minicpm(name: str) -> Specimen:
    """12 tokens, or 8 for the whole and 4 for each of two times two slices."""
    stem = {"minicpmv4_6": "MiniCPMV4_6", "minicpmv4_7": "MiniCPMV4_7"}.get(name, "MiniCPMOcr")
    has_canvas = name == "minicpmv4_7"
    config = getattr(transformers, f"{stem}Config")(
        text_config=text_config(
            "qwen3_5_text",
            layer_types=LAYER_TYPES,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": PATCH_SIZE,
        },
        insert_layer_id=0,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        **(MARKERS if has_canvas else {}),
    )
    merge = _merge(config)
    model = draw_weights(getattr(transformers, f"{stem}ForConditionalGeneration")(config))
    _soften(model)
    model.register_forward_pre_hook(_join_rows, with_kwargs=True)

    def encode(parts: Sequence[Part]) -> Prompt:
        return _encode(parts, merge, has_canvas)

    return Specimen(
        model,
        encode,
        read_attentions=lambda outputs: dict(zip((1, 3), outputs.attentions, strict=True)),
        has_sizes=True,
        remark="softmax attention in layers 1 and 3 only",
    )


def _soften(model: Any) -> None:
    """Centre the scale of keys, one plus a weight, at one: else attention drowns in rounding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("k_norm.weight"):
                weight.sub_(1)


def _merge(config: Any) -> int:
    """Patches along each side of an image token."""
    return 2 if config.downsample_mode == "4x" else 4


def _join_rows(model: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Put the patches of a batch into one row, as the processor does: the model reads one row."""
    rows = inputs.get("pixel_values", ())
    if len(rows) > 1:
        tokens = (inputs["input_ids"] == IMAGE).sum(1)
        lengths = PATCH_SIZE * _merge(model.config) ** 2 * tokens[tokens > 0]
        used = [row[..., :length] for row, length in zip(rows, lengths.tolist(), strict=True)]
        inputs["pixel_values"] = torch.cat(used, dim=-1)[None]
    return args, inputs


def _crops(picture: Picture) -> list[tuple[int, int]]:
    """Rows and columns of the whole picture and of its slices, in image tokens."""
    return [(2, 4), *[(2, 2)] * 4] if picture.is_large else [(3, 4)]


def _spell_picture(picture: Picture) -> list[int]:
    whole, *slices = (rows * columns for rows, columns in _crops(picture))
    ids = [IMAGE_START, *[IMAGE] * whole, IMAGE_END]
    for index, tokens in enumerate(slices):
        ids += [NEWLINE] if index == 2 else []
        ids += [SLICE_START, *[IMAGE] * tokens, SLICE_END]
    return ids


def _encode(parts: Sequence[Part], merge: int, has_canvas: bool) -> Prompt:
    pictures = pictures_of(parts)
    digits = count(FIRST_DIGIT)

    def spell_numbered(picture: Picture) -> list[int]:
        return [ID_START, next(digits), ID_END, *_spell_picture(picture)]

    input_ids = torch.tensor([spell(parts, spell_numbered)])
    is_image = input_ids == IMAGE
    inputs = {"input_ids": input_ids}
    if has_canvas:
        inputs["mm_token_type_ids"] = is_image.long()
    if pictures:
        grids = [
            [(rows * merge, columns * merge) for rows, columns in _crops(picture)]
            for picture in pictures
        ]
        lengths = [sum(rows * columns for rows, columns in crops) for crops in grids]
        inputs["target_sizes"] = torch.tensor([*chain(*grids)], dtype=torch.int32)
        inputs["pixel_values"] = torch.cat(
            [
                pixels(picture, 1, 3, PATCH_SIZE, PATCH_SIZE * length)
                for picture, length in zip(pictures, lengths, strict=True)
            ],
            dim=-1,
        )
    return Prompt(inputs, is_image[0])
