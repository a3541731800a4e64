"""Which weights the provisional adapter adds to a model and trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bye_audit.config import FinetuneConfig
from bye_audit.errors import UnsupportedModelError
from bye_audit.model.loading import ignoring_future_warnings

_PROJECTORS = ("multi_modal_projector", "connector", "merger", "aligner", "mlp1", "projector")


def put_fresh_adapter(model: Any, config: FinetuneConfig, projector: str | None) -> Any:
    """Wrap a base model in an untrained adapter, its trained weights in float32."""
    torch.manual_seed(config.seed)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_decoder_linear_pattern(model),
        modules_to_save=[projector] if projector else None,
        bias="none",
    )
    with ignoring_future_warnings():
        wrapped = get_peft_model(model, settings)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            # Steps of a small learning rate vanish in bfloat16.
            parameter.data = parameter.data.float()
    return wrapped


def _decoder_linear_pattern(model: Any) -> str:
    """Regular expression of every linear layer inside the language decoder."""
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    head = model.get_output_embeddings()
    leaves = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    if not leaves:
        raise UnsupportedModelError(
            "The model's decoder has no linear layer an adapter could sit on.",
            hint="Use an unquantised model of transformers itself.",
        )
    ends = "|".join(re.escape(leaf) for leaf in sorted(leaves))
    return rf"{re.escape(prefix)}\..*\.({ends})"


def find_projector(model: Any) -> str | None:
    """Name of the module between vision tower and decoder."""
    for wanted in _PROJECTORS:
        for name, _ in model.named_modules():
            if name.rpartition(".")[2] == wanted:
                return str(name)
    return None


def adapter_weights(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Weights that are trained, by name."""
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            yield name, parameter
