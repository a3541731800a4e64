"""Which attention modules of a model look at the image, and where the image is among their keys.

One generic way serves every model whose prompt holds one token for each image feature; models that
see the image otherwise are listed in `bye_audit.model.families`.

Shape legend: B samples, S prompt positions, K keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bye_audit.errors import UnsupportedModelError

Inputs = Mapping[str, Any]

_IMAGE_TOKEN_NAMES = ("image_token_id", "image_token_index", "img_context_token_id")
_NOT_REMOTE = "Use a model of transformers itself (the -hf ports), not remote code."


def last_positions(inputs: Inputs) -> Tensor:
    """(B, 1) indices of each prompt's last position that is no padding."""
    num_samples, length = inputs["input_ids"].shape
    seen_BS = inputs.get("attention_mask")
    if seen_BS is None or seen_BS.ndim != 2:
        return torch.full((num_samples, 1), length - 1)
    last_B1: Tensor = length - 1 - seen_BS.long().flip(1).argmax(1)[:, None]
    return last_B1


def prompt_length(inputs: Inputs) -> int:
    """Columns of the prompts."""
    return int(inputs["input_ids"].shape[1])


@dataclass(frozen=True, slots=True)
class DecoderView:
    """How one model's decoder looks at an image."""

    modules: dict[int, Any]
    """Attention modules by decoder layer; linear and recurrent layers have none."""
    num_layers: int
    find_image: Callable[[Inputs], Tensor]
    """Model inputs to (B, K) booleans: keys that stand for the image."""
    forward_names: frozenset[str]
    """Parameters of the model's forward pass."""
    is_generic: bool = True
    """Whether no adapter was needed."""
    takes_batches: bool = True
    """Whether prompts can be put side by side."""
    covers_all_keys: bool = False
    """Whether every key is a feature of the image, however many there are."""
    has_prompt_axis: bool = True
    """Whether keys are the positions of the prompt; else they are the image's own."""
    find_rows: Callable[[Inputs], Tensor] = last_positions
    """Model inputs to (B, 1) indices of the query that predicts the first answer token."""
    count_queries: Callable[[Inputs], int] = prompt_length
    prepare: Callable[[Inputs], Inputs] = dict
    """Model inputs as the forward pass wants them."""


def view_decoder(model: Any) -> DecoderView:
    """Find out how a model's decoder looks at an image.

    Parameters
    ----------
    model
        A model of transformers, wrapped by PEFT or not.

    Returns
    -------
    DecoderView
        Its modules are the model's own, not copies.

    Raises
    ------
    UnsupportedModelError
        If there is no such quantity in this model, or no way to read it; says why.
    """
    from bye_audit.model.families import find_family

    base = without_wrapper(model)
    special = find_family(base)
    return special(base) if special is not None else view_prompt_tokens(base)


def without_wrapper(model: Any) -> Any:
    """Return the model below a PEFT wrapper or a compiled one."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def forward_names(model: Any) -> frozenset[str]:
    """Names of the parameters of a model's forward pass."""
    return frozenset(inspect.signature(model.forward).parameters)


def find_image_token_id(model: Any) -> int | None:
    """Id of the token that stands for one image feature in a prompt, if the model has one."""
    config = model.config
    for part in (config, getattr(config, "vision_config", None)):
        for name in _IMAGE_TOKEN_NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int):
                return value
    return None


def attention_modules(root: Any) -> dict[int, Any]:
    """Self-attention modules below ``root`` that belong to decoder layers, by layer."""
    return {
        module.layer_idx: module
        for module in root.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and "attention" in type(module).__name__.lower()
        and getattr(module, "config", None) is not None
    }


def view_prompt_tokens(model: Any, image_token_id: int | None = None) -> DecoderView:
    """View a decoder whose prompt holds one token for each image feature: the generic way."""
    name = type(model).__name__
    if image_token_id is None:
        image_token_id = find_image_token_id(model)
    if image_token_id is None:
        raise UnsupportedModelError(
            f"{name} cannot be scored: its config names no token that stands for the image.",
            hint="Models that read images as tokens of the prompt can be scored "
            "(LLaVA, InternVL, Qwen-VL and the like).",
        )
    if not hasattr(model, "get_decoder"):
        raise UnsupportedModelError(
            f"{name} cannot be scored: it does not say which part of it is the decoder.",
            hint=_NOT_REMOTE,
        )
    modules = attention_modules(model.get_decoder())
    if not modules:
        raise UnsupportedModelError(
            f"No attention layer of {name}'s decoder can be watched.", hint=_NOT_REMOTE
        )

    def find_image(inputs: Inputs) -> Tensor:
        found: Tensor = inputs["input_ids"] == image_token_id
        return found

    return DecoderView(
        modules=modules,
        num_layers=int(model.config.get_text_config(decoder=True).num_hidden_layers),
        find_image=find_image,
        forward_names=forward_names(model),
    )
