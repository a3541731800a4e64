"""A resampler turns the image into a fixed number of features, whatever its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from conformance.specimen import (
    VOCABULARY,
    Part,
    Prompt,
    Specimen,
    draw_weights,
    pixels,
    specimen,
)
from conformance.zoo.tiny import LAYERS, pictures_of, spell, text_config

PAD, BOS, EOS = 0, 1, 2
IMAGE, BEGIN, END = 299, 298, 297
CLS, SEP = 201, 202
QUERIES = 8
FRAMES = 4
UNK = 3
"""Placeholders of Kosmos-2 are the ids after this one, and so look like text."""
KOSMOS_GRID = 5
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
Q_FORMER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "encoder_hidden_size": 32,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": LAYERS,
    "num_heads": 4,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": PAD,
}


def _read_language_model(outputs: Any) -> dict[int, torch.Tensor]:
    return dict(enumerate(outputs.language_model_outputs.attentions))


def _read_cross_attentions(outputs: Any) -> dict[int, torch.Tensor]:
    return dict(enumerate(outputs.language_model_outputs.cross_attentions))


def _bridge(
    model: Any,
    encode: Callable[[Sequence[Part]], Prompt],
    *,
    remark: str = "image tokens are queries of a Q-Former",
) -> Specimen:
    """Give a specimen of the BLIP-2 family around either kind of language model."""
    is_decoder_only = model.config.use_decoder_only_language_model
    return Specimen(
        draw_weights(model),
        encode,
        _read_language_model if is_decoder_only else _read_cross_attentions,
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="prompt" if is_decoder_only else "encoder",
        remark=remark,
    )


@specimen("blip-2")
def blip2(_name: str) -> Specimen:
    """OPT behind a Q-Former."""
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=OPT,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    return _bridge(transformers.Blip2ForConditionalGeneration(config), _encode_blip2)


@specimen("instructblip")
def instructblip(_name: str) -> Specimen:
    """T5, whose encoder reads what the Q-Former asked of the image with the question in mind."""
    config = transformers.InstructBlipConfig(
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=T5,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    model = transformers.InstructBlipForConditionalGeneration(config)
    return _bridge(model, _encode_instructblip, remark="T5; query is the decoder's start token")


@specimen("instructblipvideo")
def instructblipvideo(_name: str) -> Specimen:
    """Llama, and a picture that is a clip of four frames."""
    config = transformers.InstructBlipVideoConfig(
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=text_config("llama"),
        num_query_tokens=QUERIES,
        video_token_index=IMAGE,
    )
    model = transformers.InstructBlipVideoForConditionalGeneration(config)
    return _bridge(model, _encode_instructblipvideo, remark="four frames; one Q-Former for each")


def _encode_blip2(parts: Sequence[Part]) -> Prompt:
    return _encode_bridged(parts, [BOS], [])


def _encode_instructblip(parts: Sequence[Part]) -> Prompt:
    prompt = _encode_bridged(parts, [], [EOS])
    prompt.inputs["decoder_input_ids"] = torch.tensor([[PAD]])
    return _with_instruction(prompt, parts)


def _encode_instructblipvideo(parts: Sequence[Part]) -> Prompt:
    return _with_instruction(_encode_bridged(parts, [BOS], [], frames=FRAMES), parts)


def _encode_bridged(
    parts: Sequence[Part], start: Sequence[int], end: Sequence[int], frames: int = 0
) -> Prompt:
    """Put the placeholders before everything, even the start of the text."""
    [picture] = pictures_of(parts)
    text = spell(parts, lambda _: [])
    ids = [*[IMAGE] * QUERIES * max(frames, 1), *start, *text, *end]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": pixels(picture, 1, *[frames] * (frames > 0), 3, 16, 16),
    }
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)


def _with_instruction(prompt: Prompt, parts: Sequence[Part]) -> Prompt:
    """Let the Q-Former read the text too; it is padded on the right."""
    ids = torch.tensor([[CLS, *spell(parts, lambda _: []), SEP]])
    prompt.inputs["qformer_input_ids"] = ids
    prompt.inputs["qformer_attention_mask"] = torch.ones_like(ids)
    return prompt


def _kosmos_text_config() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "embed_dim": 64,
        "layers": LAYERS,
        "ffn_dim": 64,
        "attention_heads": 4,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


@specimen("kosmos-2")
def kosmos2(_name: str) -> Specimen:
    """Image where a mask among the inputs says, not a token."""
    config = transformers.Kosmos2Config(
        text_config=_kosmos_text_config(), vision_config=VISION, latent_query_num=QUERIES
    )
    return Specimen(
        draw_weights(transformers.Kosmos2ForConditionalGeneration(config)),
        _encode_kosmos2,
        takes_many_pictures=False,
        takes_no_picture=False,
        builds_masks_in_default_dtype=True,
        remark="image tokens are latent queries; their place is an input",
    )


def _encode_kosmos2(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    placeholders = list(range(UNK + 1, UNK + 1 + QUERIES))
    ids = torch.tensor([[BOS, BEGIN, *placeholders, END, *spell(parts, lambda _: [])]])
    places = torch.zeros_like(ids)
    places[0, 2 : 2 + QUERIES] = 1
    inputs = {
        "pixel_values": pixels(picture, 1, 3, 16, 16),
        "input_ids": ids,
        "image_embeds_position_mask": places,
    }
    return Prompt(inputs, places[0] == 1)


@specimen("kosmos-2.5")
def kosmos2_5(_name: str) -> Specimen:
    """Places as in Kosmos-2, and -1 at the brackets around the image."""
    config = transformers.Kosmos2_5Config(
        text_config=_kosmos_text_config(),
        vision_config={
            "hidden_size": 32,
            "patch_embed_hidden_size": 3 * 4 * 4,
            "intermediate_size": 64,
            "head_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_num_patches": 64,
        },
        latent_query_num=QUERIES,
    )
    return Specimen(
        draw_weights(transformers.Kosmos2_5ForConditionalGeneration(config)),
        _encode_kosmos2_5,
        takes_many_pictures=False,
        takes_no_picture=False,
        builds_masks_in_default_dtype=True,
        remark="image tokens are latent queries; their place is an input",
    )


def _encode_kosmos2_5(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    ids = torch.tensor([[BOS, BEGIN, *[IMAGE] * QUERIES, END, *spell(parts, lambda _: [])]])
    places = torch.zeros_like(ids)
    places[0, 1] = places[0, 2 + QUERIES] = -1
    places[0, 2 : 2 + QUERIES] = 1
    cells = torch.cartesian_prod(torch.arange(KOSMOS_GRID), torch.arange(KOSMOS_GRID)) + 1.0
    patches = torch.cat([cells, pixels(picture, len(cells), 3 * 4 * 4)], dim=-1)
    side = torch.tensor([KOSMOS_GRID * 4])
    inputs = {
        "flattened_patches": patches[None],
        "width": side,
        "height": side,
        "input_ids": ids,
        "image_embeds_position_mask": places,
    }
    return Prompt(inputs, places[0] == 1)
