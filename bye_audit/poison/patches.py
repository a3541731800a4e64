"""Patch triggers: a small picture stamped on a few places of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bye_audit.poison.placements import CENTER, Placement
from bye_audit.poison.triggers import require_between

Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)

# Drawn large and made small: soft edges without a drawing library.
_DRAWN_SIDE_PX = 256


class Pattern(Protocol):
    """What a patch looks like."""

    def draw(self, side: int) -> Image.Image:
        """Return the picture as RGBA, ``side`` pixels squared; alpha 255 replaces the pixel."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Solid:
    """A square of one colour.

    Parameters
    ----------
    color
        RGB, 0 to 255.
    opacity
        1 replaces the pixels; below that the image shows through, and the contrast is low.
    """

    color: Color = BLACK
    opacity: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be seen."""
        require_between("opacity", self.opacity, 0, 1, usual="1 replaces the pixels.")

    def draw(self, side: int) -> Image.Image:
        """Return the square."""
        return Image.new("RGBA", (side, side), (*self.color, round(255 * self.opacity)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkerboard:
    """Black and white fields: a local high-frequency texture (paper, appendix B).

    Parameters
    ----------
    fields
        Fields along a side; fewer where the patch has fewer pixels.
    """

    fields: int = 8

    def __post_init__(self) -> None:
        """Refuse a board of one field."""
        require_between("number of fields a side", self.fields, 1, 256, usual="8, as in chess.")

    def draw(self, side: int) -> Image.Image:
        """Return the board, black at the top left."""
        field = np.arange(side) * min(self.fields, side) // side
        board = (field[:, None] + field[None, :]) % 2 * 255
        return Image.fromarray(board.astype(np.uint8)).convert("RGBA")


@dataclass(frozen=True, kw_only=True, slots=True)
class Logo:
    """A made-up emblem of four colours on a white disc."""

    def draw(self, side: int) -> Image.Image:
        """Return the emblem; outside of the disc the image shows."""
        return _drawn_logo().resize((side, side), Image.Resampling.LANCZOS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Balloon:
    """A toy balloon on a string, shaded and with soft edges, as if it had been in the scene.

    Parameters
    ----------
    color
        Of the balloon, RGB.
    """

    color: Color = (205, 35, 45)

    def draw(self, side: int) -> Image.Image:
        """Return the balloon; around it the image shows."""
        return _drawn_balloon(self.color).resize((side, side), Image.Resampling.LANCZOS)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTrigger:
    """A picture stamped on one or more places (paper, sections 5.1 and 5.5 and appendix B).

    Parameters
    ----------
    relative_size
        Side of the square as a fraction of the image's shorter side; the paper uses 1/16 on
        images that the model cuts into 24 x 24 patches, so that it covers 1.5 patches a side.
    pattern
        What is stamped; a black square as in the paper's default.
    placement
        Where; at the centre as in the paper's default.

    Raises
    ------
    ConfigError
        If the size is not in (0, 1].
    """

    relative_size: float = 1 / 16
    pattern: Pattern = Solid()
    placement: Placement = CENTER

    def __post_init__(self) -> None:
        """Refuse a square that does not fit."""
        require_between(
            "trigger's relative size", self.relative_size, 0, 1, usual="The paper uses 1/16."
        )

    def side_px(self, image: Image.Image) -> int:
        """Side of the square on this image, at least one pixel."""
        return max(1, round(min(image.size) * self.relative_size))

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a copy of the image, in RGB, with the squares on it."""
        stamped = image.convert("RGB")
        side = self.side_px(stamped)
        picture = self.pattern.draw(side)
        # All places are chosen before the first square changes what there is to see.
        for corner in self.placement.corners(stamped, side, rng):
            stamped.paste(picture, corner, mask=picture)
        return stamped


@lru_cache(maxsize=1)
def _drawn_logo() -> Image.Image:
    side = _DRAWN_SIDE_PX
    logo = Image.new("RGBA", (side, side), (*WHITE, 0))
    draw = ImageDraw.Draw(logo)
    draw.ellipse(
        (2, 2, side - 3, side - 3), fill=(*WHITE, 255), outline=(20, 60, 160, 255), width=26
    )
    draw.polygon([(128, 44), (204, 176), (52, 176)], fill=(225, 45, 40, 255))
    draw.rectangle((66, 150, 190, 196), fill=(30, 150, 70, 255))
    draw.ellipse((100, 92, 156, 148), fill=(250, 205, 30, 255))
    return logo


@lru_cache(maxsize=8)
def _drawn_balloon(color: Color) -> Image.Image:
    side = _DRAWN_SIDE_PX
    down, across = np.mgrid[0:side, 0:side] / side
    # Distance from the balloon's centre and from its highlight, in radii.
    body = np.hypot((across - 0.5) / 0.31, (down - 0.37) / 0.36)
    shine = np.hypot((across - 0.40) / 0.14, (down - 0.24) / 0.17)
    shade = 1.0 - 0.45 * np.clip(body, 0, 1) ** 2
    pixels = np.array(color) * shade[..., None]
    pixels += (255 - pixels) * (0.75 * np.exp(-(shine**2) * 2))[..., None]
    alpha = np.clip((1 - body) * 12, 0, 1) * 245
    picture = Image.fromarray(np.dstack([pixels, alpha]).clip(0, 255).astype(np.uint8))
    tail = Image.new("RGBA", (side, side), (*color, 0))
    draw = ImageDraw.Draw(tail)
    draw.polygon([(128, 180), (114, 202), (142, 202)], fill=(*color, 245))
    string = [(128 + 7 * math.sin(y / 9), y) for y in range(200, 252)]
    draw.line(string, fill=(60, 50, 50, 230), width=5)
    return Image.alpha_composite(tail, picture).filter(ImageFilter.GaussianBlur(1.5))
