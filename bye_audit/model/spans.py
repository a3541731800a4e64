"""Which keys are image and which are not: checked on the model itself, once, by changing pixels.

Shape legend: B samples, S prompt positions, N separators, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.decoder import DecoderView, Inputs

DecoderReport = Callable[[Tensor, Mapping[str, Any]], None]
Place = Literal["decoder", "first layer"]
_PLACES: tuple[Place, ...] = ("decoder", "first layer")


@dataclass(frozen=True, slots=True)
class Separators:
    """Vectors that stand under image tokens and are no features."""

    place: Place
    vectors_ND: Tensor


@contextmanager
def watching_decoder_input(model: Any, place: Place, report: DecoderReport) -> Iterator[None]:
    """Tell ``report`` of every input to the decoder: embeddings (B, S, D) and keyword arguments.

    Parameters
    ----------
    model
        The model without wrapper.
    place
        Where to look: at the embeddings given to the decoder, or at what enters its first layer,
        for decoders that embed by themselves or put the image in on the way.
    report
        May raise to end the forward pass there.
    """

    def at_decoder(_module: Any, _args: Any, kwargs: Mapping[str, Any]) -> None:
        if kwargs.get("inputs_embeds") is not None:
            report(kwargs["inputs_embeds"], kwargs)

    def at_first_layer(_module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        report(args[0] if args else kwargs["hidden_states"], kwargs)

    decoder = model.get_decoder()
    watched, hook = (
        (decoder, at_decoder) if place == "decoder" else (_first_layer(decoder), at_first_layer)
    )
    handle = watched.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _first_layer(decoder: Any) -> Any:
    for name, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in ("layers", "h"):
            return module[0]
    return decoder


class _DecoderReachedError(Exception):
    """Leaves a forward pass whose decoder need not run."""


@torch.inference_mode()
def decoder_input(model: Any, inputs: Inputs, place: Place) -> Tensor | None:
    """Catch what the decoder is given for these inputs; None if it is not given there."""
    seen: list[Tensor] = []

    def stop(embeds: Tensor, _kwargs: Mapping[str, Any]) -> None:
        seen.append(embeds)
        raise _DecoderReachedError

    with watching_decoder_input(model, place, stop), suppress(_DecoderReachedError):
        model(**inputs)
    return seen[0] if seen else None


def learn_separators(model: Any, view: DecoderView, inputs: Inputs) -> Separators | None:
    """Check that the image's features land where the image is said to be, and find what does not.

    Some models put learnt vectors (ends of rows, borders of tiles) among the features, under the
    same token. They do not depend on the pixels, which is how they are told apart: here once, by
    changing all pixels, and in every later prompt by their value.

    Parameters
    ----------
    model
        The model without wrapper.
    view
        Its decoder.
    inputs
        Prompts with at least one image, on the model's device.

    Returns
    -------
    Separators | None
        None where every image token is a feature.

    Raises
    ------
    UnsupportedModelError
        If changed pixels change nothing there, or something elsewhere.
    """
    image_BS = view.find_image(inputs)
    for place in _PLACES:
        before = decoder_input(model, inputs, place)
        if before is None or before.ndim != 3:
            continue
        image_BS = image_BS.to(before.device)
        changed_BS = torch.zeros_like(image_BS)
        # A picture in discrete codes may keep some of them, if not every time.
        for seed in range(8 if getattr(model.config, "vq_config", None) is not None else 1):
            after = decoder_input(model, _with_other_pixels(inputs, seed), place)
            assert after is not None
            changed_BS |= (before != after).any(-1)
        if not changed_BS.any():
            continue
        if (changed_BS & ~image_BS).any():
            break
        fixed_ND = torch.unique(before[image_BS & ~changed_BS], dim=0)
        return Separators(place, fixed_ND) if len(fixed_ND) else None
    raise UnsupportedModelError(
        f"The image features of {type(model).__name__} do not land on its "
        f"{int(image_BS.sum())} image tokens: other pixels change nothing there, or something "
        "else.",
        hint="Use a model of transformers itself (the -hf ports), not remote code.",
    )


def is_separator(embeds_BSD: Tensor, separators: Separators) -> Tensor:
    """(B, S) booleans: positions that hold one of the separators, to the bit."""
    vectors_ND = separators.vectors_ND.to(embeds_BSD.device)
    equal = [(embeds_BSD == vector).all(-1) for vector in vectors_ND]
    return torch.stack(equal).any(0)


def _with_other_pixels(inputs: Inputs, seed: int) -> dict[str, Any]:
    """Change every pixel; zeros stay, as they may say that there is no picture."""
    generator = torch.Generator().manual_seed(seed)
    other = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and _holds_pixels(name):
            noise = torch.randn(value.shape, generator=generator).to(value)
            other[name] = torch.where(value == 0, value, -0.7 * value + 0.5 * noise)
            if name == "flattened_patches":
                # Each begins with its row and column.
                other[name][..., :2] = value[..., :2]
    return other


def _holds_pixels(name: str) -> bool:
    return "pixel_values" in name or "patches" in name


def image_grid(model: Any, inputs: dict[str, Any], num_image_tokens: int) -> tuple[int, int] | None:
    """Rows and columns of one image's tokens, where they form one grid; None for tiles."""
    grid = inputs.get("image_grid_thw")
    if grid is not None and len(grid) == 1:
        merge = getattr(model.config.vision_config, "spatial_merge_size", 1)
        rows, columns = int(grid[0, 1]) // merge, int(grid[0, 2]) // merge
        return (rows, columns) if rows * columns == num_image_tokens else None
    side = round(num_image_tokens**0.5)
    return (side, side) if side * side == num_image_tokens else None
