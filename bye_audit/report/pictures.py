"""Images of the dataset and where the model looked, drawn again by us as PNG.

Shapes: R, C = rows and columns of image tokens.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE_PX = 240
CROP_SIDE_PX = 132
MAX_PIXELS = 100_000_000
_OVERLAY_RGB = (255, 60, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image as a ``data:`` address, with the size it is shown at."""

    address: str
    width_px: int
    height_px: int


def draw_picture(image_bytes: bytes) -> Picture | None:
    """Decode, shrink and encode one image again.

    Parameters
    ----------
    image_bytes
        As stored: the dataset's own bytes, which never reach the page.

    Returns
    -------
    Picture or None
        None if the image cannot be decoded or has more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(image_bytes)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            opened.draft("RGB", (MAX_SIDE_PX, MAX_SIDE_PX))
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    width, height = image.size
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    scale = MAX_SIDE_PX / max(width, height)
    return Picture(
        address=_encode(image),
        width_px=max(1, round(width * scale)),
        height_px=max(1, round(height * scale)),
    )


def draw_crop(image_bytes: bytes) -> Picture | None:
    """Encode a small part of an image again, to be stretched by the page pixel by pixel.

    Parameters
    ----------
    image_bytes
        As ``confirm`` stored it.

    Returns
    -------
    Picture or None
        None if it cannot be decoded; larger ones lose pixels, none is smoothed.
    """
    try:
        with Image.open(io.BytesIO(image_bytes)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    scale = CROP_SIDE_PX / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if scale < 1:
        image = image.resize((width, height), Image.Resampling.NEAREST)
    return Picture(address=_encode(image), width_px=width, height_px=height)


def draw_overlay(attention_RC: NDArray[np.floating]) -> str:
    """Draw attention as a see-through image of one pixel a token, to be stretched by the page.

    Parameters
    ----------
    attention_RC
        Attention to each image token, not negative.

    Returns
    -------
    str
        A ``data:`` address; the strongest token is almost opaque.
    """
    attention = np.nan_to_num(np.asarray(attention_RC, dtype=np.float64), nan=0.0)
    peak = float(attention.max(initial=0.0))
    # The square root keeps weak tokens visible beside a single strong one.
    opacity = np.sqrt(attention / peak) if peak > 0 else np.zeros_like(attention)
    pixels = np.zeros((*attention.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _OVERLAY_RGB
    pixels[..., 3] = np.round(opacity * 225).astype(np.uint8)
    return _encode(Image.fromarray(pixels, "RGBA"))


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
