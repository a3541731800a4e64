"""Families that speak as Qwen-VL does but have a decoder or a vision tower of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from conformance.specimen import Part, Prompt, Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder, mrope
from conformance.zoo.qwen import PATCH, TOKENS, windowed_vision
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config, vision_config

ONE_FRAME_PATCH = 3 * 4 * 4
"""Channels, rows and columns of one flattened patch of a tower that knows no pairs of frames."""
NEWLINE = 210


@specimen("ernie4_5_vl_moe")
def ernie4_5_vl_moe(_name: str) -> Specimen:
    """Experts of their own for image tokens."""
    config = transformers.Ernie4_5_VLMoeConfig(
        text_config=text_config(
            "ernie4_5_vl_moe_text",
            moe_intermediate_size=[32, 32],
            moe_k=2,
            moe_num_experts=4,
            moe_num_shared_experts=1,
            rope_parameters=mrope(mrope_section=[3, 3, 2]),
        ),
        vision_config={
            "model_type": "ernie4_5_vl_moe_vision",
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 64,
            "patch_size": 4,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=VISION_START,
        image_end_token_id=VISION_END,
        video_start_token_id=292,
        video_end_token_id=291,
        **PLAIN_EXPERTS,
    )
    model = transformers.Ernie4_5_VLMoeForConditionalGeneration(config)
    return Specimen(draw(model), _encode_ernie, has_sizes=True)


def _encode_ernie(parts: Sequence[Part]) -> Prompt:
    """Count the tokens around an image as image for the experts, though not for the positions."""
    prompt = GridEncoder((ONE_FRAME_PATCH,))(parts)
    ids_BS = prompt.inputs["input_ids"]
    to_image_experts_BS = torch.isin(ids_BS, torch.tensor([IMAGE, VISION_START, VISION_END]))
    prompt.inputs["moe_mm_token_type_ids"] = to_image_experts_BS.long()
    return prompt


@specimen("exaone4_5")
def exaone4_5(_name: str) -> Specimen:
    """Three layers with a window, one without, which has no rotation either; 1-D positions."""
    config = transformers.Exaone4_5_Config(
        text_config=text_config("exaone4", sliding_window=16, sliding_window_pattern=4),
        vision_config=windowed_vision(model_type="exaone4_5_vision", num_key_value_heads=2),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = transformers.Exaone4_5_ForConditionalGeneration(config)
    encode = GridEncoder((PATCH,), has_token_types=False)
    return Specimen(draw(model), encode, has_sizes=True, remark="window of 16")


@specimen("hyperclovax_vision_v2")
def hyperclovax_vision_v2(_name: str) -> Specimen:
    """Put the tower of Qwen2.5-VL under a Granite-like decoder with a scaling of its own."""
    config = transformers.HyperCLOVAXVisionV2Config(
        text_config=text_config("hyperclovax", attention_multiplier=0.2),
        vision_config=windowed_vision(model_type="qwen2_5_vl_vision"),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = transformers.HyperCLOVAXVisionV2ForConditionalGeneration(config)
    encode = GridEncoder((PATCH,), has_token_types=False)
    return Specimen(draw(model), encode, has_sizes=True)


@specimen("paddleocr_vl")
def paddleocr_vl(_name: str) -> Specimen:
    """Patches stay squares; positions of the vision tower are interpolated."""
    config = transformers.PaddleOCRVLConfig(
        text_config=text_config("paddleocr_vl_text", rope_parameters=mrope()),
        vision_config=vision_config("paddleocr_vl_vision", image_size=32, spatial_merge_size=2),
        **TOKENS,
    )
    model = transformers.PaddleOCRVLForConditionalGeneration(config)
    return Specimen(draw(model), GridEncoder((3, 4, 4)), has_sizes=True)


@specimen("video_llama_3")
def video_llama_3(_name: str) -> Specimen:
    """1-D positions; the merge size is told with each image, and is one, unlike that of videos."""
    config = transformers.VideoLlama3Config(
        text_config=text_config("qwen2"),
        vision_config=vision_config("video_llama_3_vision"),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = transformers.VideoLlama3ForConditionalGeneration(config)
    return Specimen(draw(model), _encode_video_llama, has_sizes=True)


def _encode_video_llama(parts: Sequence[Part]) -> Prompt:
    encode = GridEncoder(
        (ONE_FRAME_PATCH,),
        has_token_types=False,
        before=(),
        after=(NEWLINE,),
        merge=1,
        sizes=((3, 4), (4, 6)),
    )
    prompt = encode(parts)
    if "image_grid_thw" in prompt.inputs:
        pictures = len(prompt.inputs["image_grid_thw"])
        prompt.inputs["image_merge_sizes"] = torch.full((pictures,), encode.merge)
    return prompt


@specimen("cosmos3_edge")
def cosmos3_edge(_name: str) -> Specimen:
    """Put a SigLIP 2 tower with interpolated positions under a Nemotron-like decoder."""
    config = transformers.Cosmos3EdgeConfig(
        text_config=text_config("cosmos3_edge_text", rope_parameters=mrope()),
        vision_config=vision_config("cosmos3_edge_vision", num_patches=16, spatial_merge_size=2),
        projector_hidden_size=64,
        **TOKENS,
    )
    model = transformers.Cosmos3EdgeForConditionalGeneration(config)
    return Specimen(draw(model), GridEncoder((ONE_FRAME_PATCH,)), has_sizes=True)
