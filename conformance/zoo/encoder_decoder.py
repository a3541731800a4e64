"""An encoder reads image and text as one sequence; the decoder attends to what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
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
from conformance.zoo.tiny import LAYERS, pictures_of, spell, text_config, vision_config

PAD, BOS, EOS = 0, 1, 2
IMAGE, IMAGE_BEGIN, IMAGE_END = 299, 298, 297
FLORENCE_FEATURES = 17
"""The mean over the image, then the sixteen patches."""
UDOP_GRID = 4
OCR_WORDS = 3


def _read_cross_attentions(outputs: Any) -> dict[int, torch.Tensor]:
    return dict(enumerate(outputs.cross_attentions))


@specimen("florence2")
def florence2(_name: str) -> Specimen:
    """BART; the image is the head of what its encoder reads."""
    config = transformers.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 512,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "decoder_start_token_id": EOS,
        },
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 4,
            "projection_dim": 64,
            "drop_path_rate": 0.0,
        },
        image_token_id=IMAGE,
    )
    return Specimen(
        draw_weights(transformers.Florence2ForConditionalGeneration(config)),
        _encode_florence2,
        _read_cross_attentions,
        takes_many_pictures=False,
        axis="encoder",
        remark="query is the decoder's start token",
    )


def _encode_florence2(parts: Sequence[Part]) -> Prompt:
    pictures = pictures_of(parts)
    text = spell(parts, lambda _: [])
    ids = [IMAGE] * FLORENCE_FEATURES + [BOS, *text, EOS] if pictures else text
    inputs = {"input_ids": torch.tensor([ids])}
    if pictures:
        inputs["pixel_values"] = pixels(pictures[0], 1, 3, 32, 32)
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)


@specimen("t5gemma2")
def t5gemma2(_name: str) -> Specimen:
    """One softmax over the decoder's own tokens and, behind them, the encoder's sequence."""
    shared = {"sliding_window": 64, "query_pre_attn_scalar": 16}
    layers = ["sliding_attention", "full_attention"]
    config = transformers.T5Gemma2Config(
        encoder={
            "text_config": text_config(
                "t5gemma2_text", num_hidden_layers=2, layer_types=layers, **shared
            ),
            "vision_config": vision_config("siglip_vision_model", image_size=24),
            "mm_tokens_per_image": 9,
            "boi_token_index": IMAGE_BEGIN,
            "eoi_token_index": IMAGE_END,
            "image_token_index": IMAGE,
        },
        decoder=text_config("t5gemma2_decoder", layer_types=layers * (LAYERS // 2), **shared),
        image_token_index=IMAGE,
    )
    return Specimen(
        draw_weights(transformers.T5Gemma2ForConditionalGeneration(config)),
        _encode_t5gemma2,
        _read_cross_attentions,
        axis="encoder",
        remark="query is the decoder's start token, which takes a share of the softmax itself",
    )


def _encode_t5gemma2(parts: Sequence[Part]) -> Prompt:
    ids = [BOS, *spell(parts, lambda _: [IMAGE_BEGIN, *[IMAGE] * 9, IMAGE_END])]
    inputs = {"input_ids": torch.tensor([ids])}
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    pictures = pictures_of(parts)
    if pictures:
        inputs["pixel_values"] = torch.cat([pixels(picture, 1, 3, 24, 24) for picture in pictures])
    inputs["decoder_input_ids"] = torch.tensor([[BOS]])
    return Prompt(inputs, inputs["input_ids"][0] == IMAGE)


@specimen("udop")
def udop(_name: str) -> Specimen:
    """T5 for documents; words printed on a patch take it into their own embedding."""
    config = transformers.UdopConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=LAYERS,
        num_heads=4,
        image_size=UDOP_GRID * 4,
        patch_size=4,
        max_2d_position_embeddings=64,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    return Specimen(
        draw_weights(transformers.UdopForConditionalGeneration(config)),
        _encode_udop,
        _read_cross_attentions,
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="encoder",
        remark="words that carry a patch count as image",
    )


def _encode_udop(parts: Sequence[Part]) -> Prompt:
    """Spell a question and then the words of the document, as a pair of sequences.

    The boxes of words run from 0 to 1000, as the processor has them, though the model reckons with
    0 to 1: so every word stands on the last patch. Boxes of the question are zeros.
    """
    question = spell(parts, lambda _: [])
    [picture] = pictures_of(parts)
    words = [10 + picture.seed % 100 + index for index in range(OCR_WORDS)]
    boxes = [[100 + 200 * word, 300, 250 + 200 * word, 400] for word in range(OCR_WORDS)]
    nowhere, separator = [0] * 4, [1000] * 4
    inputs = {
        "pixel_values": pixels(picture, 1, 3, UDOP_GRID * 4, UDOP_GRID * 4),
        "input_ids": torch.tensor([[*question, EOS, *words, EOS]]),
        "bbox": torch.tensor([[*[nowhere] * len(question), separator, *boxes, separator]]),
        "decoder_input_ids": torch.tensor([[PAD]]),
    }
    # The first patch belongs to the boxes of zeros and is lost; the last one sits in the words.
    # What remains of the patches is moved up, and padded to their number.
    text_K = (inputs["bbox"][0] != 0).any(-1)
    patches = UDOP_GRID * UDOP_GRID
    tail_K = torch.arange(patches) < patches - 1 - bool(question)
    return Prompt(inputs, torch.cat([text_K, tail_K]))
