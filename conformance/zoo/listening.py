"""For models that compute attention maps of their decoder and do not give them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def listen(modules: Mapping[int, nn.Module]) -> Callable[[Any], dict[int, Tensor]]:
    """Remember the maps that attention modules return as their second output.

    Copies of the model share the memory: the last forward pass counts.
    """
    heard: dict[int, Tensor] = {}

    def remember(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            heard[layer] = outputs[1]

        return hook

    for layer, module in modules.items():
        module.register_forward_hook(remember(layer))
    return lambda _outputs: dict(heard)
