"""Purifiers: an image without the detail in which a trigger may hide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import PurifyConfig

PixelImage = NDArray[np.uint8]

NUM_BLOCKS = 24
"""Blocks along an image's shorter side whose mean colours are kept."""


class Purifier(Protocol):
    """Something that gives images back without their fine detail."""

    @property
    def name(self) -> str:
        """Its name in :data:`PURIFIERS`."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What must be equal before two purified images may be compared."""
        ...

    def purify(self, images: Sequence[PixelImage]) -> list[PixelImage]:
        """Purify images; each comes out the same, whatever it is purified together with.

        Parameters
        ----------
        images
            RGB, shape (rows, columns, 3), of any sizes.

        Returns
        -------
        list of arrays
            Of the same shapes, in the same order.
        """
        ...


class ClassicalPurifier:
    """Mean colours of blocks, and a bilinear surface through them; no model is needed.

    Averaging over blocks is the degradation of ZIP (Shi et al., NeurIPS 2023). The paper puts back
    what averaging took away (the null space) from a diffusion model. This one leaves it out: any
    restoration that is bound to the exact block means sharpens what is left of a trigger too.

    Parameters
    ----------
    num_blocks
        Blocks along the shorter side; they are at least two pixels wide.
    """

    name = "classical"

    def __init__(self, num_blocks: int = NUM_BLOCKS) -> None:
        self._num_blocks = num_blocks

    @property
    def settings(self) -> Mapping[str, str]:
        """The number of blocks."""
        return {"num_blocks": str(self._num_blocks)}

    def purify(self, images: Sequence[PixelImage]) -> list[PixelImage]:
        """Purify images, as in `Purifier`."""
        return [self._purify_one(image) for image in images]

    def _purify_one(self, image: PixelImage) -> PixelImage:
        from PIL import Image

        width, height = blocks_of(image.shape[:2], self._num_blocks)
        whole = Image.fromarray(image)
        blocks = whole.resize((width, height), Image.Resampling.BOX)
        return np.asarray(blocks.resize(whole.size, Image.Resampling.BILINEAR))


def blocks_of(shape: tuple[int, ...], num_blocks: int) -> tuple[int, int]:
    """Blocks along width and height: nearly square, two pixels wide or more where there are two.

    Parameters
    ----------
    shape
        Rows and columns of the image.
    num_blocks
        Blocks wanted along the shorter of them.
    """
    rows, columns = shape[:2]
    side = max(2.0, min(rows, columns) / num_blocks)
    return max(1, round(columns / side)), max(1, round(rows / side))


def _make_classical(config: PurifyConfig) -> Purifier:
    del config
    return ClassicalPurifier()


def _make_diffusion(config: PurifyConfig) -> Purifier:
    from bye_audit.purify.diffusion import DiffusionPurifier

    assert config.purifier_model is not None, "PurifyConfig sees to it"
    return DiffusionPurifier.open(config.purifier_model, device=config.device)


PURIFIERS: dict[str, Callable[[PurifyConfig], Purifier]] = {
    "classical": _make_classical,
    "diffusion": _make_diffusion,
}
"""How each purifier is made, by name."""
