"""The common case: each patch of each picture carries the same placeholder token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from conformance.specimen import Picture, Prompt, pixels

IMAGE = 299
"""The placeholder; all other special tokens are the affair of a module."""


def prompt(ids: Sequence[int], **vision_inputs: Tensor) -> Prompt:
    """Give a prompt whose patches are all that carry the placeholder token."""
    input_ids = torch.tensor([list(ids)])
    return Prompt({"input_ids": input_ids, **vision_inputs}, input_ids[0] == IMAGE)


def stacked_pixels(
    pictures: Sequence[Picture],
    side: int = 16,
    count: Callable[[Picture], int] = lambda _picture: 1,
) -> dict[str, Tensor]:
    """Give ``pixel_values`` of all crops of all pictures along one axis; nothing for no picture."""
    if not pictures:
        return {}
    crops = [pixels(picture, count(picture), 3, side, side) for picture in pictures]
    return {"pixel_values": torch.cat(crops)}
