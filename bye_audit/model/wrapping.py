"""Looking on while a model attends: its attention functions, wrapped under their own names.

Under their own, since models ask for the name of the function in use and compute otherwise by it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.row import AttentionCall

_MARK = "_bye_audit_watcher"
Watcher = Callable[[int, Any, AttentionCall], Any]
"""Is told layer, module and call, and says which mask is to be used."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Put on an attention module so that the wrapper knows whom to tell."""

    layer: int
    watcher: Watcher


class WrappedAttention:
    """While open, every call of these modules' attention functions is shown to a watcher.

    Parameters
    ----------
    modules
        Attention modules by layer; those of other models are passed through.
    watcher
        Called before the function itself; what it raises leaves the forward pass.
    """

    def __init__(self, modules: Mapping[int, Any], watcher: Watcher) -> None:
        self._modules = modules
        self._watcher = watcher
        self._saved: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Wrap the functions in use and mark the modules."""
        # The mapping itself has no public reader for a single function.
        known = AttentionInterface._global_mapping
        names = {m.config._attn_implementation or "eager" for m in self._modules.values()}
        for name in names:
            if "flex" in name or "paged" in name:
                raise UnsupportedModelError(
                    f"Attention cannot be read from the {name} kernel: its masks are programs.",
                    hint='Load the model with attn_implementation="sdpa".',
                )
        for name in names:
            self._saved[name] = known.get(name)
            AttentionInterface.register(name, _watch(self._saved[name] or _eager, "flash" in name))
        for layer, module in self._modules.items():
            setattr(module, _MARK, _Mark(layer, self._watcher))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put everything back as it was."""
        for module in self._modules.values():
            module.__dict__.pop(_MARK, None)
        for name, function in self._saved.items():
            if function is None:
                AttentionInterface._global_mapping.pop(name, None)
            else:
                AttentionInterface.register(name, function)
        self._saved.clear()


def _watch(function: Callable[..., Any], is_flash: bool) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **options: Any,
    ) -> Any:
        mark = getattr(module, _MARK, None)
        if mark is not None:
            is_causal = options.get("is_causal")
            if is_causal is None:
                is_causal = getattr(module, "is_causal", True)
            call = AttentionCall(query, key, attention_mask, options, bool(is_causal), is_flash)
            attention_mask = mark.watcher(mark.layer, module, call)
        return function(module, query, key, value, attention_mask, *args, **options)

    return attention


def _eager(module: Any, *args: Any, **options: Any) -> Any:
    """Eager attention is not in the mapping: every model's file has its own."""
    for kind in type(module).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function(module, *args, **options)
    raise UnsupportedModelError(
        f"{type(module).__name__} has no attention function that can be watched.",
        hint="Use a model of transformers itself (the -hf ports), not remote code.",
    )
