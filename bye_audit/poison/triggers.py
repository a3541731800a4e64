"""Visual triggers: what an attacker stamps on an image before anything else touches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from bye_audit.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTrigger:
    """A solid square, stamped by pixel replacement (paper, section 5.1 and appendix B).

    Parameters
    ----------
    relative_size
        Side of the square as a fraction of the image's shorter side; the paper uses 1/16 on
        images that the model cuts into 24 x 24 patches, so that it covers 1.5 patches a side.
    color
        RGB, 0 to 255.
    position
        ``center`` as in the paper's default, or ``random``: anywhere inside the image.

    Raises
    ------
    ConfigError
        If the size is not in (0, 1].
    """

    relative_size: float = 1 / 16
    color: tuple[int, int, int] = (0, 0, 0)
    position: Literal["center", "random"] = "center"

    def __post_init__(self) -> None:
        """Refuse a square that does not fit."""
        if not 0 < self.relative_size <= 1:
            raise ConfigError(
                f"A trigger's relative size must be in (0, 1], not {self.relative_size}.",
                hint="The paper uses 1/16.",
            )

    def side_px(self, image: Image.Image) -> int:
        """Side of the square on this image, at least one pixel."""
        return max(1, round(min(image.size) * self.relative_size))

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a copy of the image, in RGB, with the square on it."""
        stamped = image.convert("RGB")
        side = self.side_px(stamped)
        room_x, room_y = stamped.width - side, stamped.height - side
        if self.position == "center":
            corner = (room_x // 2, room_y // 2)
        else:
            corner = (int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1)))
        stamped.paste(self.color, (*corner, corner[0] + side, corner[1] + side))
        return stamped
