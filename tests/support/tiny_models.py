"""Small random vision-language models in Hugging Face form, made in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from training.architecture import build_model, build_processor, build_tokenizer

NUM_LAYERS = 3
NUM_HEADS = 2


def write_tiny_vlm(folder: Path, *, seed: int = 0) -> None:
    """Write a random LLaVA of three layers whose attention is far from uniform."""
    tokenizer = build_tokenizer(num_scenes=60)
    torch.manual_seed(seed)
    model = build_model(
        tokenizer,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        hidden_size=32,
        intermediate_size=48,
        num_vision_layers=1,
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and ("q_proj" in name or "k_proj" in name):
                weight.mul_(20)
            elif weight.ndim > 1:
                weight.mul_(3)
    _save_quietly(model, folder)
    build_processor(tokenizer).save_pretrained(folder)


def write_tiny_text_model(folder: Path) -> None:
    """Write a language model that has never heard of images."""
    tokenizer = build_tokenizer(num_scenes=20)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    _save_quietly(LlamaForCausalLM(config), folder)
    tokenizer.save_pretrained(folder)


def _save_quietly(model: PreTrainedModel, folder: Path) -> None:
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if had_bar:
            transformers_logging.enable_progress_bar()
