"""The attention probe: what the query that predicts the first answer token looks at.

The attention function a decoder layer looks up is wrapped under its own name, and computes one
row of attention from the queries and keys it is given; no layer falls back to eager attention and
no map of all positions against all is ever made.

Shape legend: B samples, L decoder layers, H query heads, S key positions, T image tokens, D head
size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Batch, Conversation
from bye_audit.model.row import RowRequest, last_row_logits, row_statistics
from bye_audit.model.spans import image_grid

_MARK = "_bye_audit_probe"


@dataclass(frozen=True, slots=True)
class AttentionReading:
    """What one batch's last prompt positions look at; NaN where there is nothing to say.

    Entropies are in nats over the image tokens, renormalised to them; masses are shares of all
    attention, in [0, 1]. A layer without attention (linear layers of hybrid decoders) is NaN.
    """

    entropy_BL: NDArray[np.float64]
    """Entropy of the head-averaged attention (paper, Eq. 4 and 5)."""
    image_mass_BL: NDArray[np.float64]
    head_entropy_BLH: NDArray[np.float64]
    system_mass_BLH: NDArray[np.float64]
    image_mass_BLH: NDArray[np.float64]
    text_mass_BLH: NDArray[np.float64]
    num_image_tokens_B: NDArray[np.int32]


class _PrefillDoneError(Exception):
    """Leaves the forward pass once the last watched layer's row is known."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Put on an attention module so that the wrapper knows whom to tell."""

    layer: int
    probe: AttentionProbe


class AttentionProbe:
    """Reads last-row attention statistics from a model's decoder while the context is open.

    Parameters
    ----------
    vlm
        The model to watch.
    layers
        Layers to watch. None: all that have attention.

    Notes
    -----
    Wrapping is process-wide while the context is open; modules of other models are passed
    through. Do not open two probes on the same model at once.

    Examples
    --------
    >>> with AttentionProbe(vlm) as probe:  # doctest: +SKIP
    ...     reading = probe.read(batch)
    """

    def __init__(self, vlm: VisionLanguageModel, layers: Sequence[int] | None = None) -> None:
        self._vlm = vlm
        found = decoder_attention_modules(vlm.base)
        self._modules = {
            layer: module for layer, module in found.items() if layers is None or layer in layers
        }
        if not self._modules:
            raise UnsupportedModelError(
                f"No attention layer of {vlm.name}'s decoder can be watched.",
                hint="Use a model of transformers itself (the -hf ports), not remote code.",
            )
        self._saved: dict[str, Any] = {}
        self._request: RowRequest | None = None
        self._rows: dict[int, dict[str, Tensor]] = {}

    def __enter__(self) -> Self:
        """Wrap the attention functions in use and mark the decoder's modules."""
        # The mapping itself has no public reader for a single function.
        known = AttentionInterface._global_mapping
        for name in {module.config._attn_implementation for module in self._modules.values()}:
            key = name or "eager"
            self._saved[key] = known.get(key)
            AttentionInterface.register(key, _watch(self._saved[key] or _eager, "flash" in key))
        for layer, module in self._modules.items():
            setattr(module, _MARK, _Mark(layer, self))
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
        for key, function in self._saved.items():
            if function is None:
                AttentionInterface._global_mapping.pop(key, None)
            else:
                AttentionInterface.register(key, function)
        self._saved.clear()

    def read(self, batch: Batch) -> AttentionReading:
        """Run the prompts as far as the last watched layer's queries and keys.

        Parameters
        ----------
        batch
            Prompts with images; answers may follow and change nothing.

        Returns
        -------
        AttentionReading
            One row a sample.
        """
        with self._recording(batch, stops_early=True):
            self._forward(batch, logits_to_keep=1)
        return self._collect(batch)

    def read_with_logits(
        self, batch: Batch, logits_to_keep: int
    ) -> tuple[AttentionReading, Tensor]:
        """Run the whole model once for both the attention and the last positions' logits."""
        with self._recording(batch, stops_early=False):
            outputs = self._forward(batch, logits_to_keep)
        return self._collect(batch), outputs.logits[:, -logits_to_keep:]

    def read_maps(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Head-averaged attention over the image tokens, one (layers, T) array a sample.

        Renormalised to the image; the layers are the watched ones in rising order.
        """
        with self._recording(batch, stops_early=True, keep_maps=True):
            self._forward(batch, logits_to_keep=1)
        stacked = torch.stack([self._rows[layer]["map"] for layer in sorted(self._rows)], 1)
        image_BS = batch.image_BS.to(stacked.device)
        return [
            maps[:, seen].cpu().numpy().astype(np.float32)
            for maps, seen in zip(stacked, image_BS, strict=True)
        ]

    @contextmanager
    def _recording(
        self, batch: Batch, *, stops_early: bool, keep_maps: bool = False
    ) -> Iterator[None]:
        self._rows = {}
        self._request = RowRequest(
            row=batch.prompt_length - 1,
            num_queries=batch.image_BS.shape[1],
            image_BS=batch.image_BS,
            system_BS=batch.system_BS,
            text_BS=batch.text_BS,
            keep_maps=keep_maps,
            stop_layer=max(self._modules) if stops_early else None,
        )
        try:
            yield
        except _PrefillDoneError:
            pass
        finally:
            self._request = None

    @torch.inference_mode()
    def _forward(self, batch: Batch, logits_to_keep: int) -> Any:
        return self._vlm.model(
            **batch.to(self._vlm.device), use_cache=False, logits_to_keep=logits_to_keep
        )

    def _on_attention(
        self,
        mark: _Mark,
        module: Any,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
        is_flash: bool,
    ) -> None:
        request = self._request
        if request is None:
            return
        # Layers that share keys may see only the newest queries.
        row = request.row - (request.num_queries - query.shape[2])
        is_causal = options.get("is_causal")
        logits_BHS = last_row_logits(
            query,
            key,
            mask,
            row,
            scaling=options.get("scaling"),
            is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
            softcap=options.get("softcap"),
            window=options.get("sliding_window") if is_flash else None,
            is_lower_right=is_flash,
            position_bias=options.get("position_bias"),
        )
        sinks = options.get("s_aux", getattr(module, "sinks", None))
        self._rows[mark.layer] = row_statistics(logits_BHS, sinks, request)
        if mark.layer == request.stop_layer:
            raise _PrefillDoneError

    def _collect(self, batch: Batch) -> AttentionReading:
        num_samples, num_layers = len(batch.image_BS), self._vlm.num_layers
        num_heads = max(row["head_entropy"].shape[1] for row in self._rows.values())
        plain = {name: np.full((num_samples, num_layers), np.nan) for name in ("entropy", "mass")}
        by_head = {
            name: np.full((num_samples, num_layers, num_heads), np.nan)
            for name in ("head_entropy", "system_mass", "image_mass", "text_mass")
        }
        for layer, row in self._rows.items():
            for name, values in plain.items():
                values[:, layer] = row[name].cpu().numpy()
            for name, values_BLH in by_head.items():
                found = row[name].cpu().numpy()
                values_BLH[:, layer, : found.shape[1]] = found
        return AttentionReading(
            entropy_BL=plain["entropy"],
            image_mass_BL=plain["mass"],
            head_entropy_BLH=by_head["head_entropy"],
            system_mass_BLH=by_head["system_mass"],
            image_mass_BLH=by_head["image_mass"],
            text_mass_BLH=by_head["text_mass"],
            num_image_tokens_B=batch.image_BS.sum(1).to(torch.int32).numpy(),
        )


def decoder_attention_modules(model: Any) -> dict[int, Any]:
    """Self-attention modules of a model's language decoder, by layer."""
    return {
        module.layer_idx: module
        for module in model.get_decoder().modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and "attention" in type(module).__name__.lower()
        and getattr(module, "config", None) is not None
    }


def _watch(function: Callable[..., Any], is_flash: bool) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        mark = getattr(module, _MARK, None)
        if mark is not None:
            mark.probe._on_attention(mark, module, query, key, attention_mask, options, is_flash)
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


@dataclass(frozen=True, slots=True)
class ImageAttention:
    """Where one sample's first answer token looks: shares of the image's attention."""

    attention_LT: NDArray[np.float32]
    grid: tuple[int, int] | None
    """Rows and columns of the image tokens, row-major; None where they form no single grid."""


def image_attention(
    vlm: VisionLanguageModel, conversations: Sequence[Conversation], layers: Sequence[int]
) -> list[ImageAttention]:
    """Head-averaged attention maps over the image, for pictures of what a model looks at.

    Parameters
    ----------
    vlm
        The model, with its adapter.
    conversations
        Each with at least one image in its prompt.
    layers
        Decoder layers, rising.

    Returns
    -------
    list[ImageAttention]
        In the order of ``conversations``; each map sums to 1 in each layer.
    """
    found = []
    with AttentionProbe(vlm, layers) as probe:
        for conversation in conversations:
            encoding = vlm.encoder.encode(conversation, with_answers=False)
            maps_LT = probe.read_maps(vlm.encoder.collate([encoding], with_answers=False))[0]
            grid = image_grid(vlm.base, encoding.inputs, maps_LT.shape[1])
            found.append(ImageAttention(maps_LT, grid))
    return found
