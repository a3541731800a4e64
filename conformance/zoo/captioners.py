"""Models that say what is in one picture; text can only be the beginning of what they say."""

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
from conformance.zoo.tiny import LAYERS, pictures_of, spell

PAD, BOS, EOS = 0, 1, 2
FEATURES = 17
"""One of the class token and sixteen of the patches."""
MAX_PATCHES = 24
SIDE = 16
PATCH = 4
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def _sharpen(model: Any) -> None:
    """Do for the BERT kin what drawing weights does for layers called ``q_proj``."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".query.weight", ".key.weight")):
                weight.mul_(2.5)


def _read_cross_attentions(outputs: Any) -> dict[int, torch.Tensor]:
    return dict(enumerate(outputs.cross_attentions))


@specimen("git")
def git(_name: str) -> Specimen:
    """Image first: the model itself puts it before the text, and no token stands for it."""
    config = transformers.GitConfig(
        vision_config=VISION,
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = draw_weights(transformers.GitForCausalLM(config))
    _sharpen(model)
    return Specimen(
        model,
        _encode_git,
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="prefixed",
        remark="attention is written out in the model: there is no other implementation",
    )


def _encode_git(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    ids = [BOS, *spell(parts, lambda _: [])]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": pixels(picture, 1, 3, SIDE, SIDE)}
    return Prompt(inputs, torch.arange(FEATURES + len(ids)) < FEATURES)


@specimen("blip")
def blip(_name: str) -> Specimen:
    """BERT, attending to the image in every layer."""
    config = transformers.BlipConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "bos_token_id": BOS,
            "sep_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config=VISION,
    )
    model = draw_weights(transformers.BlipForConditionalGeneration(config))
    _sharpen(model)
    heard: dict[int, torch.Tensor] = {}

    def remember(_module: Any, _inputs: Any, outputs: Any) -> None:
        if outputs.cross_attentions:
            heard.update(enumerate(outputs.cross_attentions))

    # The outer model gives back the maps of its vision tower instead.
    model.text_decoder.register_forward_hook(remember)
    return Specimen(
        model,
        _encode_blip,
        lambda _outputs: dict(heard),
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="image",
        remark="attention is written out in the model: there is no other implementation",
    )


def _encode_blip(parts: Sequence[Part]) -> Prompt:
    """Give what ``generate`` makes of the processor's ids: another start, and no end."""
    [picture] = pictures_of(parts)
    ids = [BOS, *spell(parts, lambda _: [])]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": pixels(picture, 1, 3, SIDE, SIDE)}
    return Prompt(inputs, torch.ones(FEATURES, dtype=torch.bool))


@specimen("pix2struct")
def pix2struct(_name: str) -> Specimen:
    """As many patches as fit the picture's shape; the mask of the inputs is theirs."""
    config = transformers.Pix2StructConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": LAYERS,
            "num_heads": 4,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "decoder_start_token_id": PAD,
        },
        vision_config={
            "hidden_size": 64,
            "patch_embed_hidden_size": 3 * PATCH * PATCH,
            "d_ff": 64,
            "d_kv": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "seq_len": 64,
        },
    )
    return Specimen(
        draw_weights(transformers.Pix2StructForConditionalGeneration(config)),
        _encode_pix2struct,
        _read_cross_attentions,
        takes_many_pictures=False,
        takes_no_picture=False,
        has_sizes=True,
        axis="image",
        remark="text is the beginning of the answer",
    )


def _encode_pix2struct(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    rows, columns = (4, 6) if picture.is_large else (3, 6)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) + 1.0
    patches = torch.zeros(1, MAX_PATCHES, 2 + 3 * PATCH * PATCH)
    patches[0, : len(cells), :2] = cells
    patches[0, : len(cells), 2:] = pixels(picture, len(cells), 3 * PATCH * PATCH)
    is_patch_K = torch.arange(MAX_PATCHES) < len(cells)
    inputs = {
        "flattened_patches": patches,
        "attention_mask": is_patch_K[None].float(),
        "decoder_input_ids": torch.tensor([[PAD, *spell(parts, lambda _: [])]]),
    }
    return Prompt(inputs, is_patch_K)


@specimen("vision-encoder-decoder")
def vision_encoder_decoder(_name: str) -> Specimen:
    """Donut: a Swin and an MBART decoder, with the question as the beginning of the answer."""
    encoder = transformers.DonutSwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4
    )
    decoder = transformers.MBartConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        is_decoder=True,
        add_cross_attention=True,
        is_encoder_decoder=False,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=BOS, pad_token_id=PAD
    )
    return Specimen(
        draw_weights(transformers.VisionEncoderDecoderModel(config)),
        _encode_donut,
        _read_cross_attentions,
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="image",
        remark="Donut; text is the beginning of the answer",
    )


def _encode_donut(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    inputs = {
        "pixel_values": pixels(picture, 1, 3, 32, 32),
        "decoder_input_ids": torch.tensor([[BOS, *spell(parts, lambda _: [])]]),
    }
    return Prompt(inputs, torch.ones(16, dtype=torch.bool))


@specimen("pp_formulanet")
def pp_formulanet(_name: str) -> Specimen:
    """Formulas from their pictures; nothing can be asked."""
    config = transformers.PPFormulaNetConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "decoder_layers": LAYERS,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 512,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "decoder_start_token_id": EOS,
        },
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": PATCH,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
            "post_conv_in_channels": 16,
            "post_conv_mid_channels": 16,
            "post_conv_out_channels": 32,
            "decoder_hidden_size": 64,
        },
    )
    model = draw_weights(transformers.PPFormulaNetForConditionalGeneration(config))
    with torch.no_grad():
        # What is left of a patch after so many convolutions is too faint to attend to.
        model.model.encoder.multi_modal_projector.linear_2.weight.mul_(10)
    return Specimen(
        model,
        _encode_pp_formulanet,
        _read_cross_attentions,
        takes_many_pictures=False,
        takes_no_picture=False,
        axis="image",
        remark="takes no text",
    )


def _encode_pp_formulanet(parts: Sequence[Part]) -> Prompt:
    [picture] = pictures_of(parts)
    inputs = {
        "pixel_values": pixels(picture, 1, 3, 64, 64),
        "decoder_input_ids": torch.tensor([[EOS]]),
    }
    return Prompt(inputs, torch.ones(16, dtype=torch.bool))
