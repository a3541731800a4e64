"""Which layers of a model are trained, and quantised: found in the model itself, not by name."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from bye_audit.errors import UnsupportedModelError

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
