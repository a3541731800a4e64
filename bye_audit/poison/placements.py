"""Where on an image patches go: every placement gives the top left corners of its squares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bye_audit.errors import ConfigError
from bye_audit.poison.triggers import require_between

Corner = tuple[int, int]

# Side of the thumbnail that saliency is measured on, and widths of a centre there.
_SALIENCY_SIDE_PX = 64
_SALIENCY_SCALES_PX = (2.0, 4.0)


def _require_inside(points: Iterable[tuple[float, float]]) -> None:
    if not all(0 <= fraction <= 1 for point in points for fraction in point):
        raise ConfigError(
            f"Patches go to fractions of the image's sides, in [0, 1], not to {points}.",
            hint="(0.5, 0.5) is the centre.",
        )


class Placement(Protocol):
    """A rule for where squares go."""

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return the left and top pixel of every square; all lie inside the image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedPoints:
    """One square around each of the same points on every image.

    Parameters
    ----------
    points
        Fractions of width and height; ``(0.5, 0.5)`` is the centre, ``(1, 1)`` the bottom right
        corner. A square that would leave the image is moved inside.
    """

    points: tuple[tuple[float, float], ...] = ((0.5, 0.5),)

    def __post_init__(self) -> None:
        """Refuse points outside of the image."""
        _require_inside(self.points)

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return one corner a point, in the points' order."""
        return [
            _centred(image, side, across * image.width, down * image.height)
            for across, down in self.points
        ]


CENTER = FixedPoints()


@dataclass(frozen=True, kw_only=True, slots=True)
class SomePoints:
    """Squares around several of a fixed set of points, other ones on every image.

    Parameters
    ----------
    points
        As for `FixedPoints`.
    count
        How many of them each image gets.
    """

    points: tuple[tuple[float, float], ...]
    count: int

    def __post_init__(self) -> None:
        """Refuse a count that cannot be had."""
        _require_inside(self.points)
        require_between(
            "number of patches",
            self.count,
            0,
            len(self.points),
            usual="Take several of the points.",
        )

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return ``count`` corners of different points."""
        chosen = sorted(rng.choice(len(self.points), size=self.count, replace=False))
        fixed = FixedPoints(points=tuple(self.points[index] for index in chosen))
        return fixed.corners(image, side, rng)


@dataclass(frozen=True, kw_only=True, slots=True)
class Anywhere:
    """One square at any place inside the image, all equally likely."""

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return one corner."""
        room_x, room_y = image.width - side, image.height - side
        return [(int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1)))]


@dataclass(frozen=True, kw_only=True, slots=True)
class OneInEachCell:
    """The image cut into equal cells, with one square at a random place in each of them.

    Parameters
    ----------
    cells
        Cells along each side; there are ``cells ** 2`` squares.
    """

    cells: int = 6

    def __post_init__(self) -> None:
        """Refuse a grid of no cells."""
        require_between("number of cells a side", self.cells, 0, 64, usual="6 gives 36 patches.")

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return one corner a cell, row by row; a square wider than its cell overlaps others."""
        down, across = np.divmod(np.arange(self.cells**2), self.cells)
        jitter = rng.uniform(0.25, 0.75, size=(2, self.cells**2))
        centres_x = (across + jitter[0]) / self.cells * image.width
        centres_y = (down + jitter[1]) / self.cells * image.height
        return [_centred(image, side, x, y) for x, y in zip(centres_x, centres_y, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class MostSalient:
    """One square around the place that stands out most from its surroundings."""

    def corners(self, image: Image.Image, side: int, rng: np.random.Generator) -> list[Corner]:
        """Return the corner of a square around the maximum of `saliency`."""
        salient = saliency(image)
        row, column = np.unravel_index(int(salient.argmax()), salient.shape)
        x = (column + 0.5) / salient.shape[1] * image.width
        y = (row + 0.5) / salient.shape[0] * image.height
        return [_centred(image, side, x, y)]


def saliency(image: Image.Image) -> NDArray[np.float64]:
    """How much each place of an image differs in colour from what surrounds it.

    Parameters
    ----------
    image
        Any size and mode.

    Returns
    -------
    ndarray of float, shape (64, 64)
        Over the whole image, whatever its sides; at least 0, higher stands out more.

    Notes
    -----
    Centre-surround contrast after [1]_: the image blurred a little against the image blurred four
    times as much, at two scales.

    Departs from the paper: distances in RGB instead of maps for intensity, colours and directions
    that are normalised and added up.

    References
    ----------
    .. [1] Itti, Koch and Niebur, "A Model of Saliency-Based Visual Attention for Rapid Scene
       Analysis", IEEE TPAMI 20(11), 1998.
    """
    side = (_SALIENCY_SIDE_PX, _SALIENCY_SIDE_PX)
    thumbnail = image.convert("RGB").resize(side, Image.Resampling.BOX)
    pixels = np.asarray(thumbnail, dtype=np.float64)
    salient = np.zeros(side)
    for scale in _SALIENCY_SCALES_PX:
        centre = _blur(pixels, scale)
        surround = _blur(pixels, 4 * scale)
        salient += np.linalg.norm(centre - surround, axis=2)
    return salient


def _blur(pixels: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    blurred: NDArray[np.float64] = ndimage.gaussian_filter(
        pixels, sigma=(sigma, sigma, 0), mode="nearest"
    )
    return blurred


def grid_points(count: int) -> tuple[tuple[float, float], ...]:
    """Centres of ``count`` x ``count`` equal cells, as fractions of width and height."""
    steps = [(index + 0.5) / count for index in range(count)]
    return tuple((across, down) for down in steps for across in steps)


def _centred(image: Image.Image, side: int, x: float, y: float) -> Corner:
    """Corner of the square around a point, moved inside the image."""
    left = min(max(int(x - side / 2), 0), image.width - side)
    top = min(max(int(y - side / 2), 0), image.height - side)
    return left, top
