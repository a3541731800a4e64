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

_PROJECTORS = (
    "multi_modal_projector",
    "connector",
    "merger",
    "aligner",
    "mlp1",
    "projector",
    "resampler_model",
)
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")


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


def find_targets(model: Any) -> list[str]:
    """Names of the linear layers that are adapted: the language decoder's, routers left out.

    In a mixture of experts whose experts are single parameters the feed-forward part is left out
    altogether: PEFT takes the names of its linear layers for those of the experts.

    Raises
    ------
    UnsupportedModelError
        If there is none.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    head = model.get_output_embeddings()
    has_fused_experts = any(
        parameter.ndim == 3 and "experts" in name.split(".")
        for name, parameter in decoder.named_parameters()
    )
    found = [
        f"{prefix}.{name}"
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and not _is_router(name, module)
        and not (has_fused_experts and name.rpartition(".")[2] in _FEED_FORWARD)
    ]
    if not found:
        raise UnsupportedModelError(
            "The model's decoder has no linear layer an adapter could sit on.",
            hint="Use a model of transformers itself.",
        )
    return found


def _is_router(name: str, module: nn.Linear) -> bool:
    """Whether a layer chooses experts: training it on little data sends tokens astray."""
    leaf = name.rpartition(".")[2]
    # A gate as wide as its input is a part of the feed-forward layer itself.
    is_named_so = re.search(r"(^|_)(router|gate)$", leaf) is not None
    return is_named_so and module.out_features < module.in_features


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
