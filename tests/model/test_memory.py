from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import draw_conversations
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from benchmarks.memory import counting_kept_bytes
from bye_audit import mini
from bye_audit.config import FinetuneConfig
from bye_audit.errors import UnsupportedModelError
from bye_audit.model.loading import load_model
from bye_audit.model.lora import train_lora
from bye_audit.model.memory import (
    LayerWidths,
    ModelShape,
    estimate_finetune,
    estimate_score,
    sketch_model,
)

SHAPE = ModelShape(
    num_base_weights=10_000,
    num_decoder_weights=8_000,
    num_trained_weights=500,
    num_adapted_layers=7,
    projector=None,
    hidden_size=16,
    vocabulary_size=100,
    num_heads=2,
    layers=(LayerWidths(32, 64, 96, 112, 80, 28),) * 3,
)


def write_llava_config(folder: Path) -> None:
    """LLaVA-1.5-7B's config and nothing else."""
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    LlavaConfig(text_config=text, vision_config=vision).save_pretrained(folder)


def test_seven_billion_weights_are_counted_from_a_config_alone(tmp_path: Path) -> None:
    write_llava_config(tmp_path)
    shape = sketch_model(str(tmp_path), FinetuneConfig())
    assert shape.num_base_weights == 7_063_427_072
    # Seven linear layers in each of 32: the adapters' 40 M weights, and the projector's 21 M.
    assert shape.num_adapted_layers == 224
    assert shape.num_trained_weights == 39_976_960 + 20_979_712
    assert shape.base_bytes(2) == 2 * shape.num_base_weights
    assert shape.base_bytes(2, "4bit") < shape.base_bytes(2, "8bit") < shape.base_bytes(2)


def test_the_sketch_has_the_measures_of_the_model_that_is_trained(
    tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(epochs=1, batch_size=4, lora_rank=4)
    shape = sketch_model(str(tiny_vlm_dir), config)
    vlm = load_model(str(tiny_vlm_dir))
    assert shape.num_base_weights == vlm.model.num_parameters()
    outcome = train_lora(vlm, draw_conversations(4), config, tmp_path)
    assert shape.num_trained_weights == outcome.num_trained_weights
    assert shape.projector == outcome.projector


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_what_autograd_keeps_is_what_was_predicted(tmp_path: Path, is_checkpointing: bool) -> None:
    conversations = draw_conversations(8)
    config = FinetuneConfig(epochs=1, batch_size=8, gradient_checkpointing=is_checkpointing)
    vlm = load_model(str(mini.model_dir()))
    encodings = [vlm.encoder.encode(conversation) for conversation in conversations]
    batch = vlm.encoder.collate(encodings, with_answers=True)
    with counting_kept_bytes(vlm) as kept:
        train_lora(vlm, conversations, config, tmp_path)
    predicted = estimate_finetune(
        sketch_model(str(mini.model_dir()), config),
        num_samples=len(conversations),
        length=batch.labels_BS.shape[1],
        num_logits=batch.labels_BS.shape[1] - batch.prompt_length + 1,
        value_bytes=4,
        is_checkpointing=is_checkpointing,
    )
    if is_checkpointing:
        # The layers' inputs are kept by the checkpoints themselves, out of the counter's sight.
        assert max(kept) < 2 * predicted.kept_activations
    else:
        assert max(kept) == pytest.approx(predicted.kept_activations, rel=0.15)


@given(
    num_samples=st.integers(1, 64),
    length=st.integers(16, 4096),
    value_bytes=st.sampled_from([2, 4]),
    is_checkpointing=st.booleans(),
)
def test_more_of_anything_never_takes_less(
    num_samples: int, length: int, value_bytes: int, is_checkpointing: bool
) -> None:
    def total(samples: int, positions: int) -> int:
        return estimate_finetune(
            SHAPE,
            num_samples=samples,
            length=positions,
            num_logits=positions // 2,
            value_bytes=value_bytes,
            is_checkpointing=is_checkpointing,
        ).total

    assert total(num_samples, length) < total(num_samples + 1, length)
    assert total(num_samples, length) < total(num_samples, length + 16)


@given(num_samples=st.integers(1, 16), length=st.integers(16, 2048))
def test_checkpointing_keeps_less_and_scoring_needs_less(num_samples: int, length: int) -> None:
    settings: dict[str, Any] = {
        "num_samples": num_samples,
        "length": length,
        "num_logits": 8,
        "value_bytes": 4,
    }
    plain = estimate_finetune(SHAPE, **settings, is_checkpointing=False)
    twice = estimate_finetune(SHAPE, **settings, is_checkpointing=True)
    assert twice.kept_activations < plain.kept_activations
    assert estimate_score(SHAPE, **settings).total < plain.total
    assert plain.gradients == 4 * SHAPE.num_trained_weights
    assert plain.optimizer_states == 8 * SHAPE.num_trained_weights


def test_a_frozen_projector_is_not_counted(tiny_vlm_dir: Path) -> None:
    config = FinetuneConfig()
    whole = sketch_model(str(tiny_vlm_dir), config)
    frozen = sketch_model(str(tiny_vlm_dir), dataclasses.replace(config, train_projector=False))
    assert frozen.projector is None
    assert frozen.num_trained_weights < whole.num_trained_weights


def test_a_folder_that_is_no_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UnsupportedModelError, match="cannot be planned for") as caught:
        sketch_model(str(tmp_path), FinetuneConfig())
    assert "config.json" in caught.value.hint
