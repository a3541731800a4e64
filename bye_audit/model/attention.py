r"""The attention probe: what the query that predicts the first answer token looks at.

Works on any vision-language model of transformers, PEFT-wrapped or not, and needs nothing else of
this package::

    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from bye_audit.model.attention import AttentionProbe

    model = AutoModelForImageTextToText.from_pretrained("llava-hf/llava-1.5-7b-hf")
    processor = AutoProcessor.from_pretrained("llava-hf/llava-1.5-7b-hf")
    text = "USER: <image>\nWhat is this? ASSISTANT:"
    inputs = processor(images=Image.open("cat.jpg"), text=text, return_tensors="pt")
    with AttentionProbe(model) as probe:
        reading = probe.read(inputs)
    print(reading.entropy_NL)  # nats, one value a decoder layer; low is collapsed

The attention function a decoder layer looks up is wrapped under its own name, and computes one
row of attention from the queries and keys it is given; no layer falls back to eager attention and
no map of all positions against all is ever made.

Shape legend: B samples, R rows read of each, N = B R readings, L decoder layers, H query heads,
S prompt positions, K keys, T image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.decoder import Inputs, view_decoder, without_wrapper
from bye_audit.model.row import AttentionCall, row_logits, row_sinks, row_statistics
from bye_audit.model.spans import (
    Separators,
    is_separator,
    learn_separators,
    watching_decoder_input,
)
from bye_audit.model.wrapping import WrappedAttention

_BY_HEAD = ("head_entropy", "system_mass", "image_mass", "text_mass")


@dataclass(frozen=True, slots=True)
class AttentionReading:
    """What prompts' last positions look at; NaN where there is nothing to say.

    Entropies are in nats over the image tokens, renormalised to them, in [0, log T]; lower means
    more collapsed. Masses are shares of all attention, in [0, 1]. A layer without softmax attention
    (linear layers of hybrid decoders), and one whose window the image has left, is NaN.
    """

    entropy_NL: NDArray[np.float64]
    """Entropy of the head-averaged attention (paper, Eq. 4 and 5)."""
    image_mass_NL: NDArray[np.float64]
    head_entropy_NLH: NDArray[np.float64]
    system_mass_NLH: NDArray[np.float64]
    image_mass_NLH: NDArray[np.float64]
    text_mass_NLH: NDArray[np.float64]
    num_image_tokens_N: NDArray[np.int32]
    """Image features that the row may attend to; separators are not counted."""


class _PrefillDoneError(Exception):
    """Leaves the forward pass once the last watched layer's row is known."""


MaskRule = Callable[[int | None], Tensor]
"""From a layer's sliding window (None: it has none) to its mask (1, 1, Q, K), True where seen."""


@dataclass(slots=True)
class RowRequest:
    """What is to be read during one forward pass, and what has been."""

    rows_BR: Tensor
    """Indices on the query axis."""
    num_queries: int
    image_BK: Tensor
    system_BK: Tensor
    stop_layer: int | None
    """Layer at which the forward pass ends. None: it goes to its end."""
    keeps_maps: bool = False
    mask_rule: MaskRule | None = None
    """A mask of the caller's own instead of the model's."""
    found: dict[int, dict[str, Tensor]] = field(default_factory=dict)


class AttentionProbe:
    """Reads attention statistics from a model's decoder while the context is open.

    Parameters
    ----------
    model
        A vision-language model of transformers, in evaluation mode; PEFT-wrapped or not.
    layers
        Decoder layers to read; the forward pass ends at the deepest. None: all that have attention.

    Raises
    ------
    UnsupportedModelError
        If the model has no such quantity, or hides it; says why.

    Notes
    -----
    Wrapping is process-wide while the context is open; modules of other models are passed
    through. Do not open two probes on the same model at once.
    """

    def __init__(self, model: Any, layers: Sequence[int] | None = None) -> None:
        self.model = model
        self.base = without_wrapper(model)
        self.view = view_decoder(model)
        self.layers = sorted(self.view.modules if layers is None else set(layers))
        unknown = [layer for layer in self.layers if layer not in self.view.modules]
        if unknown:
            raise UnsupportedModelError(
                f"{type(self.base).__name__} has no attention in layers {unknown}, only in "
                f"{sorted(self.view.modules)}.",
                hint="Choose layers among these.",
            )
        self._wrapping = WrappedAttention(self.view.modules, self._on_attention)
        self._request: RowRequest | None = None
        self._separators: Separators | None = None
        self._is_checked = not self.view.has_prompt_axis

    def __enter__(self) -> Self:
        """Wrap the attention functions in use and mark the decoder's modules."""
        self._wrapping.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put everything back as it was."""
        self._wrapping.__exit__(kind, error, trace)

    def read(
        self, inputs: Inputs, *, rows_BR: Tensor | None = None, system_BS: Tensor | None = None
    ) -> AttentionReading:
        """Run prompts as far as the last watched layer's queries and keys.

        Parameters
        ----------
        inputs
            What the processor made of the prompts; padded on either side, if at all.
        rows_BR
            Prompt positions to read. None: the last one of each prompt that is no padding.
        system_BS
            Booleans: positions before anything a user said. None: they count as text.

        Returns
        -------
        AttentionReading
            One row a sample, or R, sample by sample.

        Raises
        ------
        UnsupportedModelError
            If image features and image tokens do not meet (checked at the first image), or the
            model's attention does not pass through transformers' interface.
        """
        request = self.make_request(inputs, rows_BR, system_BS, stops_early=True)
        self.run(inputs, request)
        return self.collect(request)

    def read_with_outputs(
        self,
        inputs: Inputs,
        *,
        rows_BR: Tensor | None = None,
        system_BS: Tensor | None = None,
        **options: Any,
    ) -> tuple[AttentionReading, Any]:
        """Run the whole model once, for the attention and for what it puts out.

        ``options`` go to the model's forward pass, such as ``logits_to_keep``.
        """
        request = self.make_request(inputs, rows_BR, system_BS, stops_early=False)
        outputs = self.run(inputs, request, **options)
        return self.collect(request), outputs

    def read_maps(self, inputs: Inputs) -> list[NDArray[np.float32]]:
        """Head-averaged attention over the image tokens, one (layers, T) array a sample.

        Renormalised to the image; the layers are the watched ones in rising order.
        """
        request = self.make_request(inputs, stops_early=True)
        request.keeps_maps = True
        self.run(inputs, request)
        maps_BLK = torch.stack([request.found[n]["map"][:, 0] for n in self.layers], 1).float()
        return [
            maps_LK[:, seen_K].cpu().numpy()
            for maps_LK, seen_K in zip(maps_BLK, request.image_BK.to(maps_BLK.device), strict=True)
        ]

    def image_keys(self, inputs: Inputs) -> Tensor:
        """(B, K) booleans: keys that are features of the image, without separators."""
        request = self.make_request(inputs, stops_early=True)
        request.stop_layer = self.layers[0]
        self.run(inputs, request)
        return request.image_BK

    def make_request(
        self,
        inputs: Inputs,
        rows_BR: Tensor | None = None,
        system_BS: Tensor | None = None,
        *,
        stops_early: bool,
    ) -> RowRequest:
        """Say what is to be read from these inputs; at the first image, check where images are."""
        image_BK = self.view.find_image(inputs)
        if not self._is_checked and bool(image_BK.any()):
            self._separators = learn_separators(
                self.base, self.view, _on(self.model.device, self.view.prepare(inputs))
            )
            self._is_checked = True
        if system_BS is None or not self.view.has_prompt_axis:
            system_BS = torch.zeros_like(image_BK)
        return RowRequest(
            rows_BR=self.view.find_rows(inputs) if rows_BR is None else rows_BR,
            num_queries=self.view.count_queries(inputs),
            image_BK=image_BK,
            system_BK=system_BS,
            stop_layer=self.layers[-1] if stops_early else None,
        )

    @torch.inference_mode()
    def run(self, inputs: Inputs, request: RowRequest, **options: Any) -> Any:
        """Run the model with a request of one's own; None where it was left early."""
        options = {"use_cache": False, **options}
        is_last_row = request.stop_layer is not None and request.mask_rule is None
        if is_last_row and "logits_to_keep" in self.view.forward_names:
            options["logits_to_keep"] = 1
        self._request = request
        try:
            with ExitStack() as watch:
                if self._separators is not None:
                    watch.enter_context(
                        watching_decoder_input(
                            self.base, self._separators.place, self._take_out_separators
                        )
                    )
                return self.model(**_on(self.model.device, self.view.prepare(inputs)), **options)
        except _PrefillDoneError:
            return None
        finally:
            self._request = None

    def collect(self, request: RowRequest) -> AttentionReading:
        """Gather what a finished pass has found."""
        missing = [layer for layer in self.layers if layer not in request.found]
        if missing:
            raise UnsupportedModelError(
                f"Layers {missing} of {type(self.base).__name__} do not pass through transformers' "
                "attention interface.",
                hint="Use a model of transformers itself (the -hf ports), not remote code.",
            )
        num_readings, num_layers = request.rows_BR.numel(), self.view.num_layers
        num_heads = max(found["head_entropy"].shape[-1] for found in request.found.values())
        plain = {name: np.full((num_readings, num_layers), np.nan) for name in ("entropy", "mass")}
        by_head = {
            name: np.full((num_readings, num_layers, num_heads), np.nan) for name in _BY_HEAD
        }
        for layer in self.layers:
            found = request.found[layer]
            for name, values_NL in plain.items():
                values_NL[:, layer] = found[name].flatten().cpu().numpy()
            for name, values_NLH in by_head.items():
                values_NH = found[name].flatten(0, 1).cpu().numpy()
                values_NLH[:, layer, : values_NH.shape[1]] = values_NH
        return AttentionReading(
            entropy_NL=plain["entropy"],
            image_mass_NL=plain["mass"],
            head_entropy_NLH=by_head["head_entropy"],
            system_mass_NLH=by_head["system_mass"],
            image_mass_NLH=by_head["image_mass"],
            text_mass_NLH=by_head["text_mass"],
            # A layer with a window may see fewer than there are.
            num_image_tokens_N=np.max(
                [request.found[n]["num_visible"].flatten().cpu().numpy() for n in self.layers], 0
            ).astype(np.int32),
        )

    def _take_out_separators(self, embeds_BSD: Tensor, _kwargs: Mapping[str, Any]) -> None:
        request = self._request
        if request is not None and self._separators is not None and request.mask_rule is None:
            fixed_BS = is_separator(embeds_BSD, self._separators)
            request.image_BK = request.image_BK & ~fixed_BS.to(request.image_BK.device)

    def _on_attention(self, layer: int, module: Any, call: AttentionCall) -> Any:
        """Read rows, and say which mask is to be used."""
        request = self._request
        if request is None:
            return call.mask
        if request.mask_rule is not None:
            window = call.options.get("sliding_window", getattr(module, "sliding_window", None))
            mask = request.mask_rule(window).to(call.query_BHQD.device)
            if module.config._attn_implementation in (None, "eager"):
                # Eager attention adds its mask.
                least = torch.finfo(call.query_BHQD.dtype).min
                mask = torch.zeros_like(mask, dtype=call.query_BHQD.dtype).masked_fill(~mask, least)
            call = replace(call, mask=mask)
        if layer in self.layers:
            # Layers that share keys may see only the newest queries.
            shift = request.num_queries - call.query_BHQD.shape[2]
            device = call.query_BHQD.device
            image_BK = request.image_BK
            if self.view.covers_all_keys:
                image_BK = image_BK[:, :1].expand(-1, call.key_BHKD.shape[2])
            rows_BR = request.rows_BR.to(device) - shift
            request.found[layer] = row_statistics(
                row_logits(call, rows_BR),
                image_BK,
                request.system_BK,
                row_sinks(call, module, rows_BR),
                keeps_maps=request.keeps_maps,
            )
        if layer == request.stop_layer:
            raise _PrefillDoneError
        return call.mask


def _on(device: torch.device, inputs: Inputs) -> dict[str, Any]:
    return {
        name: _move(device, value) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
        # With labels, some models refuse to compute the last position alone.
        if name != "labels"
    }


def _move(device: torch.device, value: Tensor) -> Tensor:
    if device.type == "cuda" and value.device.type == "cpu":
        # From pinned memory the copy does not hold up the pass that is still running.
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)
