"""PaliGemma, a prefix language model, and Gemma 3, whose image tokens see each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, specimen
from conformance.zoo.spelling import IMAGE, prompt, stacked_pixels
from conformance.zoo.tiny import SLIDING, pictures_of, spell, text_config, vision_config
from conformance.zoo.weights import scale_queries

BEGIN, END, NEWLINE, NEWLINES, FIRST = 298, 297, 296, 295, 1
SIDE = 32
SOFT_CAP = 5.0


@specimen("paligemma", "paligemma2")
def paligemma(name: str) -> Specimen:
    """All of the prompt sees all of it; the second has soft caps and sliding windows."""
    if name == "paligemma2":
        capped = {"attn_logit_softcapping": SOFT_CAP, "query_pre_attn_scalar": 16}
        text, remark = text_config("gemma2", **SLIDING, **capped), "bidirectional, soft-capped"
    else:
        text, remark = text_config("gemma"), "bidirectional"
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=vision_config(
            "siglip_vision_model", projection_dim=64, vision_use_head=False
        ),
        projection_dim=64,
        image_token_index=IMAGE,
    )
    model = draw_weights(PaliGemmaForConditionalGeneration(config))
    if name == "paligemma":
        # Nothing caps its logits: float32 would be too coarse for them.
        scale_queries(model, 0.25, part="q_proj")
    return Specimen(model, _encode_prefix, remark=remark)


@specimen("gemma3", "shieldgemma2")
def gemma3(_name: str) -> Specimen:
    """Patches are pooled to sixteen image tokens; sliding windows."""
    config = Gemma3Config(
        text_config=text_config("gemma3_text", query_pre_attn_scalar=64, **SLIDING),
        vision_config=vision_config("siglip_vision_model", image_size=SIDE, vision_use_head=False),
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    model = draw_weights(Gemma3ForConditionalGeneration(config))
    return Specimen(model, _encode_blocks, remark="sliding windows, bidirectional images")


def _encode_prefix(parts: Sequence[Part]) -> Prompt:
    """Put the first token of the text after the last picture, wherever that is."""
    ids = spell(parts, lambda _picture: [IMAGE] * 16)
    after_last = max((place + 1 for place, token in enumerate(ids) if token == IMAGE), default=0)
    ids = [*ids[:after_last], FIRST, *ids[after_last:], NEWLINE]
    encoded = prompt(ids, **stacked_pixels(pictures_of(parts)))
    # Zero everywhere: there is no answer to learn yet, which the labels say too.
    encoded.inputs["token_type_ids"] = torch.zeros_like(encoded.inputs["input_ids"])
    encoded.inputs["labels"] = torch.full_like(encoded.inputs["input_ids"], -100)
    return encoded


def _block(_picture: Picture) -> list[int]:
    return [NEWLINES, BEGIN, *[IMAGE] * 16, END, NEWLINES]


def _encode_blocks(parts: Sequence[Part]) -> Prompt:
    encoded = prompt(spell(parts, _block), **stacked_pixels(pictures_of(parts), SIDE))
    encoded.inputs["token_type_ids"] = encoded.patches_K[None].long()
    return encoded
