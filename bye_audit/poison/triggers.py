"""What every trigger can do, whatever it looks like.

An image trigger is sized relative to the image, so that it is as conspicuous on a thumbnail as on
a photograph (paper, appendix B). What differs from image to image comes from the generator that
is handed in; what must be the same on all of them comes from the trigger's own fields.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

from bye_audit.errors import ConfigError


class ImageTrigger(Protocol):
    """Something an attacker does to an image."""

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a triggered copy of the image, in RGB and of the same size."""
        ...


class TextTrigger(Protocol):
    """Something an attacker does to a question."""

    def insert(self, question: str, rng: np.random.Generator) -> str:
        """Return the triggered question; ``<image>`` placeholders stay where they are."""
        ...


def require_between(name: str, value: float, low: float, high: float, *, usual: str) -> None:
    """Refuse a setting outside (low, high].

    Raises
    ------
    ConfigError
        Naming the setting, its bounds and what is usual.
    """
    if not low < value <= high:
        raise ConfigError(f"The {name} must be in ({low}, {high}], not {value}.", hint=usual)
