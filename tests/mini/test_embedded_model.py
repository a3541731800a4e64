"""The embedded model is an ordinary model folder, small, and sees what is in its world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from bye_audit.mini import model_dir, scenes
from training.evaluate_mini import accuracy_by_kind


def test_the_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in model_dir().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_it_opens_like_any_other_model() -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir())
    processor = AutoProcessor.from_pretrained(model_dir())
    assert isinstance(model, LlavaForConditionalGeneration)
    text = model.config.get_text_config()
    assert text.num_hidden_layers >= 6
    scene = scenes.draw_scene(np.random.default_rng(0))
    inputs = processor(images=[scene.image], text=["<image>"], return_tensors="pt")
    num_image_tokens = int((inputs["input_ids"] == model.config.image_token_index).sum())
    assert num_image_tokens == 81
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_letters_that_its_world_does_not_use_are_told_apart() -> None:
    processor = AutoProcessor.from_pretrained(model_dir())
    model = AutoModelForImageTextToText.from_pretrained(model_dir())
    letters = processor.tokenizer.convert_tokens_to_ids(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    rows = torch.nn.functional.normalize(model.get_input_embeddings().weight[letters], dim=1)
    similarity = (rows @ rows.T).fill_diagonal_(0)
    assert similarity.abs().max() < 0.5, "a model that says other words could not spell them"


@pytest.mark.slow
def test_it_answers_and_describes_scenes_it_has_not_seen() -> None:
    accuracy = accuracy_by_kind(model_dir(), 60, scenes.UNSEEN_TEXTURES)
    # docs/embedded-model.md has the figures over 300 scenes, 0.992 and 0.913: each bound is
    # three standard deviations of 60 scenes below, or more.
    assert accuracy["all_questions"] >= 0.97
    assert accuracy["caption"] >= 0.8
