"""The thinkers of Qwen's omni models, of which only eye and text are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from conformance.specimen import Part, Prompt, Specimen, specimen
from conformance.zoo.grids import IMAGE, VIDEO, VISION_END, VISION_START, GridEncoder, mrope
from conformance.zoo.qwen import EXPERTS, PATCH, vision, windowed_vision
from conformance.zoo.tiny import PLAIN_EXPERTS, draw, text_config

AUDIO, AUDIO_START, AUDIO_END, USER = 297, 294, 293, 292
ENDS = {
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "audio_start_token_id": AUDIO_START,
    "audio_end_token_id": AUDIO_END,
    "user_token_id": USER,
}


def ear(**changes: Any) -> dict[str, Any]:
    """Give an audio tower that is never spoken to."""
    return {
        "num_mel_bins": 8,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "d_model": 16,
        "max_source_positions": 16,
        "n_window": 4,
        "output_dim": 64,
    } | changes


@specimen("qwen2_5_omni_thinker")
def qwen2_5_omni_thinker(_name: str) -> Specimen:
    """As Qwen2.5-VL; positions are derived from the tokens around images."""
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=text_config("qwen2_5_omni_text", rope_parameters=mrope()),
        vision_config=windowed_vision(model_type="qwen2_5_omni_vision_encoder"),
        audio_config=ear(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_token_index=AUDIO,
        **ENDS,
    )
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    return Specimen(draw(model), _encode, has_sizes=True)


@specimen("qwen3_omni_moe_thinker")
def qwen3_omni_moe_thinker(_name: str) -> Specimen:
    """As the mixture of Qwen3-VL; positions are derived from the tokens around images."""
    config = transformers.Qwen3OmniMoeThinkerConfig(
        text_config=text_config(
            "qwen3_omni_moe_text", rope_parameters=mrope(mrope_interleaved=True), **EXPERTS
        ),
        vision_config=vision(
            model_type="qwen3_omni_moe_vision_encoder",
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        audio_config=ear(n_window_infer=8, downsample_hidden_size=8),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        **ENDS,
        **PLAIN_EXPERTS,
    )
    model = transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config)
    return Specimen(draw(model), _encode, has_sizes=True)


def _encode(parts: Sequence[Part]) -> Prompt:
    """Bring the attention mask along, without which the model takes 1-D positions."""
    prompt = GridEncoder((PATCH,), has_token_types=False)(parts)
    prompt.inputs["attention_mask"] = torch.ones_like(prompt.inputs["input_ids"])
    return prompt
