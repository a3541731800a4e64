"""Without a vision tower: discrete image codes among the words, or patches embedded linearly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    FuyuConfig,
    FuyuForCausalLM,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt, stacked_pixels
from conformance.zoo.tiny import TEXT, pictures_of, spell, text_config
from conformance.zoo.weights import scale_queries

BEGIN, END, SEPARATOR, WRAPPER, END_OF_FRAME, NEWLINE = 298, 297, 296, 295, 294, 293
FIRST, ANSWER = 1, 4
FIRST_CODE, CODES = 200, 64
EMU_SIDE, EMU_GRID = 32, 4
FUYU_PATCH = 3 * 4 * 4


@specimen("chameleon")
def chameleon(_name: str) -> Specimen:
    """Sixteen codes of a picture are words of the vocabulary."""
    digits = "ABCDEFGHIJ"
    codes = {
        f"IMGIMG{''.join(digits[int(digit)] for digit in str(code))}Z": FIRST_CODE + code
        for code in range(CODES)
    }
    config = ChameleonConfig(
        **TEXT,
        vq_config={
            "embed_dim": 8,
            "num_embeddings": CODES,
            "latent_channels": 32,
            "resolution": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 2],
        },
        vocabulary_map={"<image>": IMAGE, **codes},
        image_token_id=IMAGE,
    )
    model = draw_weights(ChameleonForConditionalGeneration(config))
    with torch.no_grad():
        for layer in model.model.layers:
            # A norm per head is a matrix, and was drawn like one: around zero.
            layer.self_attn.q_norm.weight.add_(1)
            layer.self_attn.k_norm.weight.add_(1)
    return Specimen(scale_queries(model, 4), _encode_chameleon, remark="discrete image codes")


@specimen("emu3")
def emu3(_name: str) -> Specimen:
    """Codes too; ends of rows stand under the image token."""
    codes = {f"<|visual token {code:06}|>": FIRST_CODE + code for code in range(CODES)}
    config = Emu3Config(
        text_config=text_config("emu3_text_model"),
        vq_config={
            "codebook_size": CODES,
            "embed_dim": 4,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "hidden_size": 32,
            "num_attention_heads": 1,
            "num_res_blocks": 1,
            "temporal_downsample_factor": 1,
        },
        vocabulary_map={"<image>": IMAGE, "<|extra_200|>": NEWLINE, **codes},
        image_token_id=IMAGE,
    )
    model = draw_weights(Emu3ForConditionalGeneration(config))
    # Pictures are of one size: the codes of one that is padded in a batch would be others.
    return Specimen(model, _encode_emu, remark="discrete codes; row ends under the image token")


@specimen("fuyu")
def fuyu(_name: str) -> Specimen:
    """Patches of any number, embedded by one linear layer."""
    config = FuyuConfig(
        text_config=text_config("persimmon"), patch_size=4, image_size=16, image_token_id=IMAGE
    )
    model = scale_queries(draw_weights(FuyuForCausalLM(config)), 4, part="q_layernorm")
    return Specimen(model, _encode_fuyu, has_sizes=True)


def _encode_chameleon(parts: Sequence[Part]) -> Prompt:
    ids = spell(parts, lambda _picture: [BEGIN, *[IMAGE] * 16, END])
    return prompt([FIRST, *ids, SEPARATOR], **stacked_pixels(pictures_of(parts)))


def _encode_emu(parts: Sequence[Part]) -> Prompt:
    """Write the size in words, then rows of codes with an end each.

    The ends are told from patches before both become the image token.
    """
    row = [*[IMAGE] * EMU_GRID, NEWLINE]
    size_in_words = [52, 10, 52]
    picture_ids = [BEGIN, *size_in_words, WRAPPER, *row * EMU_GRID, END_OF_FRAME, END]
    encoded = prompt([FIRST, *spell(parts, lambda _picture: picture_ids)])
    input_ids = encoded.inputs["input_ids"]
    input_ids[input_ids == NEWLINE] = IMAGE
    pictures = pictures_of(parts)
    if pictures:
        encoded.inputs.update(stacked_pixels(pictures, EMU_SIDE))
        encoded.inputs["image_sizes"] = torch.tensor([[EMU_SIDE, EMU_SIDE]] * len(pictures))
    return encoded


def _fuyu_grid(picture: Picture) -> tuple[int, int]:
    return (5, 6) if picture.is_large else (3, 4)


def _fuyu_rows(picture: Picture) -> list[int]:
    rows, columns = _fuyu_grid(picture)
    return [*[*[IMAGE] * columns, NEWLINE] * rows, FIRST]


def _encode_fuyu(parts: Sequence[Part]) -> Prompt:
    ids = spell(parts, _fuyu_rows)
    patches = [
        pixels(picture, rows * columns, FUYU_PATCH)
        for picture in pictures_of(parts)
        for rows, columns in [_fuyu_grid(picture)]
    ]
    if not patches:
        return prompt(ids)
    return prompt([*ids, ANSWER], pixel_values=torch.cat(patches))
