"""Which positions of a prompt are image, system and text.

Shape legend: B samples, S prompt positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bye_audit.errors import UnsupportedModelError

_IMAGE_TOKEN_NAMES = ("image_token_id", "image_token_index", "img_context_token_id")
_PIXEL_INPUTS = ("pixel_values", "image_pixel_values")


def find_image_token_id(model: Any) -> int | None:
    """Id of the token that stands for one image feature in a prompt, if the model has one."""
    config = model.config
    for part in (config, getattr(config, "vision_config", None)):
        for name in _IMAGE_TOKEN_NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int):
                return value
    return None


class _DecoderReachedError(Exception):
    """Carries the decoder's input out of a forward pass that need not go on."""

    def __init__(self, embeds: Tensor) -> None:
        super().__init__()
        self.embeds = embeds


@torch.inference_mode()
def check_image_positions(model: Any, inputs: dict[str, Any], image_BS: Tensor) -> None:
    """Make sure that the image's features land where the image tokens are.

    Parameters
    ----------
    model
        The model without adapter wrapper.
    inputs
        One encoded prompt with an image.
    image_BS
        Booleans: the positions taken for image tokens.

    Raises
    ------
    UnsupportedModelError
        If changed pixels change nothing there, or something elsewhere.
    """
    other = dict(inputs)
    for name in _PIXEL_INPUTS:
        if name in other:
            other[name] = 1.0 - 0.7 * other[name]
    before, after = _decoder_input(model, inputs), _decoder_input(model, other)
    if before is None or after is None:
        return
    changed_BS = ((before - after).abs().amax(-1) > 0).to(image_BS.device)
    if (changed_BS & ~image_BS).any() or not (changed_BS & image_BS).any():
        raise UnsupportedModelError(
            "The model's image features do not land on its image tokens: "
            f"{int(changed_BS.sum())} positions depend on the pixels, {int(image_BS.sum())} are "
            "image tokens.",
            hint="Use a model of transformers itself (the -hf ports), not remote code.",
        )


def _decoder_input(model: Any, inputs: dict[str, Any]) -> Tensor | None:
    def stop(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds")
        if embeds is not None:
            raise _DecoderReachedError(embeds.float())

    hook = model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs)
    except _DecoderReachedError as reached:
        return reached.embeds
    finally:
        hook.remove()
    return None


def image_grid(model: Any, inputs: dict[str, Any], num_image_tokens: int) -> tuple[int, int] | None:
    """Rows and columns of one image's tokens, where they form one grid; None for tiles."""
    grid = inputs.get("image_grid_thw")
    if grid is not None and len(grid) == 1:
        merge = getattr(model.config.vision_config, "spatial_merge_size", 1)
        rows, columns = int(grid[0, 1]) // merge, int(grid[0, 2]) // merge
        return (rows, columns) if rows * columns == num_image_tokens else None
    side = round(num_image_tokens**0.5)
    return (side, side) if side * side == num_image_tokens else None
