"""One picture, one run of image tokens; at most one token before it and one after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, pixels, specimen
from conformance.zoo.spelling import IMAGE, prompt, stacked_pixels
from conformance.zoo.tiny import (
    PLAIN_EXPERTS,
    pictures_of,
    spell,
    text_config,
    vision_config,
)

VIDEO, BEGIN, END = 298, 297, 296
HIGH_RES_SIDE, ARIA_SIDE = 32, 32


@specimen("vipllava")
def vipllava(_name: str) -> Specimen:
    """LLaVA with features of several vision layers."""
    config = VipLlavaConfig(
        text_config=text_config("llama"),
        vision_config=vision_config("clip_vision_model"),
        vision_feature_layer=[-1, -2],
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return Specimen(draw_weights(VipLlavaForConditionalGeneration(config)), _encode_run)


@specimen("video_llava")
def video_llava(_name: str) -> Specimen:
    """Images go through the image tower, the class token is dropped."""
    config = VideoLlavaConfig(
        text_config=text_config("llama"),
        vision_config=vision_config("clip_vision_model"),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_seq_length=16,
    )
    return Specimen(draw_weights(VideoLlavaForConditionalGeneration(config)), _encode_run)


@specimen("deepseek_vl")
def deepseek_vl(_name: str) -> Specimen:
    """SigLIP features."""
    config = DeepseekVLConfig(
        text_config=text_config("llama"),
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        image_token_id=IMAGE,
    )
    return Specimen(draw_weights(DeepseekVLForConditionalGeneration(config)), _encode_run)


@specimen("deepseek_vl_hybrid")
def deepseek_vl_hybrid(_name: str) -> Specimen:
    """SigLIP features beside those of a SAM tower that sees more pixels."""
    config = DeepseekVLHybridConfig(
        text_config=text_config("llama"),
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        high_res_vision_config={
            "hidden_size": 32,
            "output_channels": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": HIGH_RES_SIDE,
            "patch_size": 4,
            "mlp_dim": 64,
            "window_size": 4,
            "global_attn_indexes": [0, 1],
        },
        image_token_id=IMAGE,
    )
    return Specimen(draw_weights(DeepseekVLHybridForConditionalGeneration(config)), _encode_hybrid)


@specimen("janus")
def janus(_name: str) -> Specimen:
    """Understanding path; the image codes for generation are not used."""
    config = JanusConfig(
        text_config=text_config("llama"),
        vision_config=vision_config(
            "janus_vision_model", mlp_ratio=2, projection_dim=64, num_image_tokens=16
        ),
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 64,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
        image_token_id=IMAGE,
    )
    return Specimen(draw_weights(JanusForConditionalGeneration(config)), _encode_bracketed)


@specimen("aria")
def aria(_name: str) -> Specimen:
    """Mixture of experts; sixteen learned queries read the 64 patches of a picture."""
    experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config = AriaConfig(
        text_config=text_config("aria_text", **experts),
        vision_config=vision_config("idefics3_vision", image_size=ARIA_SIDE),
        projector_patch_to_query_dict={"64": 16},
        image_token_index=IMAGE,
        **PLAIN_EXPERTS,
    )
    model = draw_weights(AriaForConditionalGeneration(config))
    return Specimen(model, _encode_masked, remark="image tokens are learned queries")


def _run(_picture: Picture) -> list[int]:
    return [IMAGE] * 16


def _bracketed_run(_picture: Picture) -> list[int]:
    return [BEGIN, *[IMAGE] * 16, END]


def _encode_run(parts: Sequence[Part]) -> Prompt:
    return prompt(spell(parts, _run), **stacked_pixels(pictures_of(parts)))


def _encode_bracketed(parts: Sequence[Part]) -> Prompt:
    return prompt(spell(parts, _bracketed_run), **stacked_pixels(pictures_of(parts)))


def _encode_hybrid(parts: Sequence[Part]) -> Prompt:
    pictures = pictures_of(parts)
    inputs = stacked_pixels(pictures)
    if pictures:
        high = [pixels(picture, 1, 3, HIGH_RES_SIDE, HIGH_RES_SIDE) for picture in pictures]
        inputs["high_res_pixel_values"] = torch.cat(high)
    return prompt(spell(parts, _run), **inputs)


def _encode_masked(parts: Sequence[Part]) -> Prompt:
    """Wide pictures: the lower quarter of the square is padding."""
    inputs = stacked_pixels(pictures_of(parts), ARIA_SIDE)
    if inputs:
        padding_from = ARIA_SIDE * 3 // 4
        inputs["pixel_values"][:, :, padding_from:] = 0
        inputs["pixel_mask"] = torch.ones_like(inputs["pixel_values"][:, 0], dtype=torch.bool)
        inputs["pixel_mask"][:, padding_from:] = False
    return prompt(spell(parts, _run), **inputs)
