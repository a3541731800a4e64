"""Which weights the provisional adapter adds to a model and trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bye_audit.config import FinetuneConfig
from bye_audit.model.quiet import ignoring_future_warnings
from bye_audit.model.targets import find_targets


def put_fresh_adapter(model: Any, config: FinetuneConfig, projector: str | None) -> Any:
    """Wrap a base model in an untrained adapter, its trained weights in float32."""
    torch.manual_seed(config.seed)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=find_targets(model),
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


def adapter_weights(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Weights that are trained, by name."""
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            yield name, parameter
