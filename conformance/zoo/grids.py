"""How Qwen2-VL and its many offspring are spoken to: patches in one list, their grid told aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conformance.specimen import Part, Picture, Prompt, pixels

IMAGE = 299
VIDEO = 298
VISION_START = 296
VISION_END = 295


@dataclass(frozen=True, slots=True)
class GridEncoder:
    """Encode prompts as a Qwen2-VL-like processor does.

    Small pictures are cut into 6 x 6 patches, large ones into 8 x 12; the image tokens stand for
    squares of ``merge`` x ``merge`` patches.
    """

    patch: tuple[int, ...]
    """Shape of the values of one patch."""
    has_token_types: bool = True
    """Whether the processor tells where the image tokens are, in ``mm_token_type_ids``."""
    before: tuple[int, ...] = (VISION_START,)
    after: tuple[int, ...] = (VISION_END,)
    merge: int = 2
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((6, 6), (8, 12))
    """Rows and columns of patches of a small and of a large picture."""

    def __call__(self, parts: Sequence[Part]) -> Prompt:
        """Encode one prompt, without padding."""
        ids: list[int] = []
        for part in parts:
            ids += self._picture_ids(part) if isinstance(part, Picture) else list(part)
        inputs = {"input_ids": torch.tensor([ids])}
        is_image_S = inputs["input_ids"][0] == IMAGE
        if self.has_token_types:
            inputs["mm_token_type_ids"] = is_image_S[None].long()
        inputs |= self._vision(part for part in parts if isinstance(part, Picture))
        return Prompt(inputs, is_image_S)

    def _picture_ids(self, picture: Picture) -> list[int]:
        rows, columns = self.sizes[picture.is_large]
        image_tokens = rows * columns // self.merge**2
        return [*self.before, *[IMAGE] * image_tokens, *self.after]

    def _vision(self, pictures: Iterable[Picture]) -> dict[str, Tensor]:
        grids = [(picture, *self.sizes[picture.is_large]) for picture in pictures]
        if not grids:
            return {}
        return {
            "pixel_values": torch.cat(
                [pixels(picture, rows * columns, *self.patch) for picture, rows, columns in grids]
            ),
            "image_grid_thw": torch.tensor([[1, rows, columns] for _, rows, columns in grids]),
        }


def mrope(**changes: Any) -> dict[str, Any]:
    """Rotary positions in time, height and width for heads of 16."""
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]} | changes
