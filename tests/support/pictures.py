"""Pictures of any size to put triggers on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw noise without black: from 1 up, so that every black pixel is a trigger's."""
    pixels = np.random.default_rng(seed).integers(1, 256, size=(height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def plain(width: int, height: int, level: int = 128) -> Image.Image:
    """Draw one gray."""
    return Image.new("RGB", (width, height), (level, level, level))


def levels(image: Image.Image) -> NDArray[np.int64]:
    """Give the pixels as numbers that can be subtracted."""
    return np.asarray(image).astype(np.int64)
