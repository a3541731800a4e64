"""Large pictures are cut into crops of the tower's size, each with its own run of image tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
)

from conformance.specimen import Part, Picture, Prompt, Specimen, draw_weights, specimen
from conformance.zoo.spelling import IMAGE, prompt, stacked_pixels
from conformance.zoo.tiny import SLIDING, pictures_of, spell, text_config, vision_config
from conformance.zoo.weights import scale_queries

BEGIN, END = 297, 296
LINE_BREAK, WHOLE, FIRST_CROP = 295, 294, 280
ROW, COLUMN, GRID = 293, 292, 291
CROP = [IMAGE] * 16
"""The image tokens of one crop, after neighbours were merged."""
SIDE = 32


@dataclass(frozen=True, slots=True)
class CropEncoder:
    """Encode prompts whose ``pixel_values`` are all crops of all pictures along one axis.

    A small picture is one crop; a large one is two crops above one another, and the whole.
    """

    spelling: Callable[[Picture], Sequence[int]]
    side: int = SIDE
    has_crops: bool = True

    def __call__(self, parts: Sequence[Part]) -> Prompt:
        """One prompt, without padding."""
        vision_inputs = stacked_pixels(pictures_of(parts), self.side, self._crops)
        return prompt(spell(parts, self.spelling), **vision_inputs)

    def _crops(self, picture: Picture) -> int:
        return 3 if picture.is_large and self.has_crops else 1


@specimen("aya_vision")
def aya_vision(_name: str) -> Specimen:
    """Give each crop a number; a Cohere 2 decoder with sliding windows."""
    config = AyaVisionConfig(
        text_config=text_config("cohere2", **SLIDING),
        vision_config=vision_config("siglip_vision_model", image_size=SIDE, vision_use_head=False),
        image_token_index=IMAGE,
    )
    model = draw_weights(AyaVisionForConditionalGeneration(config))
    return Specimen(model, CropEncoder(_numbered), has_sizes=True, remark="sliding windows")


@specimen("cohere2_vision")
def cohere2_vision(_name: str) -> Specimen:
    """End each crop with a line break; the decoder of Aya Vision."""
    config = Cohere2VisionConfig(
        text_config=text_config("cohere2", **SLIDING),
        vision_config=vision_config("siglip_vision_model", image_size=SIDE, vision_use_head=False),
        alignment_intermediate_size=64,
        image_token_id=IMAGE,
    )
    model = draw_weights(Cohere2VisionForConditionalGeneration(config))
    return Specimen(model, CropEncoder(_broken), has_sizes=True, remark="sliding windows")


@specimen("internvl", "qianfan_ocr")
def internvl(name: str) -> Specimen:
    """Crops follow one another without anything between."""
    settings: dict[str, Any] = {"image_token_id": IMAGE, "image_seq_length": 16}
    tower = {"image_size": [SIDE, SIDE], "patch_size": [4, 4]}
    if name == "internvl":
        vision = vision_config("internvl_vision", **tower)
        text = text_config("qwen2")
        config = InternVLConfig(text_config=text, vision_config=vision, **settings)
        model = InternVLForConditionalGeneration(config)
    else:
        vision = vision_config("qianfan_ocr_vision", **tower)
        text = text_config("qwen3")
        config = QianfanOCRConfig(text_config=text, vision_config=vision, **settings)
        model = QianfanOCRForConditionalGeneration(config)
    draw_weights(model)
    # Only Qwen 3, in the second, has the norms that flatten attention.
    return Specimen(scale_queries(model, 4), CropEncoder(_one_run), has_sizes=True)


@specimen("got_ocr2", "pp_chart2table")
def got_ocr2(name: str) -> Specimen:
    """Look through a SAM tower; only GOT-OCR 2 itself cuts into crops."""
    config = GotOcr2Config(
        text_config=text_config("qwen2"),
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 4,
            "mlp_dim": 64,
            "window_size": 8,
            "global_attn_indexes": [1],
        },
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    has_crops = name == "got_ocr2"
    encode = CropEncoder(_one_run if has_crops else _single_run, side=64, has_crops=has_crops)
    model = draw_weights(GotOcr2ForConditionalGeneration(config))
    return Specimen(model, encode, has_sizes=has_crops)


@specimen("ovis2")
def ovis2(_name: str) -> Specimen:
    """Image tokens are mixtures of visual words; indicators between crops are visual words too."""
    config = Ovis2Config(
        text_config=text_config("qwen2"),
        vision_config=vision_config("ovis2_vision", vocab_size=64),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[BEGIN, END, GRID, COLUMN, ROW],
        vocab_size=300,
        hidden_size=64,
    )
    model = draw_weights(Ovis2ForConditionalGeneration(config))
    return Specimen(model, CropEncoder(_gridded, side=16), has_sizes=True)


@specimen("llama4")
def llama4(_name: str) -> Specimen:
    """Three layers see chunks of the prompt only, the last sees all; mixture of experts."""
    config = Llama4Config(
        text_config=text_config(
            "llama4_text",
            intermediate_size_mlp=64,
            num_local_experts=4,
            moe_layers=[1, 3],
            no_rope_layers=[1, 1, 1, 0],
            attention_chunk_size=24,
        ),
        vision_config=vision_config(
            "llama4_vision_model",
            image_size=SIDE,
            intermediate_size=128,
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
        ),
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    model = draw_weights(Llama4ForConditionalGeneration(config))
    return Specimen(model, CropEncoder(_separated), has_sizes=True, remark="chunked attention")


def _one_run(picture: Picture) -> list[int]:
    return [BEGIN, *CROP * (3 if picture.is_large else 1), END]


def _single_run(_picture: Picture) -> list[int]:
    return [BEGIN, *CROP, END]


def _numbered(picture: Picture) -> list[int]:
    crops = [FIRST_CROP, *CROP, FIRST_CROP + 1, *CROP] if picture.is_large else []
    return [BEGIN, *crops, WHOLE, *CROP, END]


def _broken(picture: Picture) -> list[int]:
    return [BEGIN, *[*CROP, LINE_BREAK] * (3 if picture.is_large else 1), END]


def _gridded(picture: Picture) -> list[int]:
    crops = [*CROP, ROW, *CROP] if picture.is_large else []
    return [BEGIN, *CROP, GRID, *crops, END]


def _separated(picture: Picture) -> list[int]:
    crops = [*CROP, ROW, *CROP, ROW] if picture.is_large else []
    return [BEGIN, *crops, WHOLE, *CROP, END]
