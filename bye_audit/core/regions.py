"""Rectangles of an image: covering one with what is around it, carrying one to another image.

Shapes: H = rows, W = columns, C = 3 colours. Images are uint8 arrays, (H, W, C).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

Image = NDArray[np.uint8]
_Level = TypeVar("_Level", np.uint8, np.float32)

_MATCHED_SIDE = 144
# Windows over a thin strip would otherwise be without number.
_MAX_ASPECT = 4


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in fractions of an image's height and width, so that it fits images of any size.

    Parameters
    ----------
    top, left
        Upper left corner, in [0, 1).
    height, width
        In (0, 1].
    """

    top: float
    left: float
    height: float
    width: float

    def slices(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns on an image of this shape; at least one pixel, none outside."""
        return (
            _span(self.top, self.height, shape[0]),
            _span(self.left, self.width, shape[1]),
        )

    @property
    def area(self) -> float:
        """Share of the image, in (0, 1]."""
        return self.height * self.width

    @property
    def center(self) -> tuple[float, float]:
        """Vertical and horizontal position of the middle, in [0, 1]."""
        return self.top + self.height / 2, self.left + self.width / 2

    def neighbours(self, step: float) -> list[Box]:
        """Give the eight rectangles around, ``step`` of its size away, inside the image."""
        moved = [
            Box(
                min(max(0.0, self.top + down * step * self.height), 1 - self.height),
                min(max(0.0, self.left + right * step * self.width), 1 - self.width),
                self.height,
                self.width,
            )
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        ]
        return [box for box in dict.fromkeys(moved) if box != self]

    def to_json(self) -> dict[str, float]:
        """Give plain numbers."""
        return asdict(self)


def square_windows(
    shape: tuple[int, ...], relative_side: float, relative_step: float, inside: Box | None = None
) -> list[Box]:
    """Squares over an image, evenly spread and touching all its edges.

    On an image more than four times as long as wide they grow with its longer side, as far as
    they fit: their number has a bound.

    Parameters
    ----------
    shape
        Of the image.
    relative_side, relative_step
        Side of a square and largest step between two, as shares of the image's shorter side.
    inside
        Only squares within this rectangle; None: the whole image.
    """
    unit = max(min(shape[:2]), max(shape[:2]) / _MAX_ASPECT)
    side = max(1, round(relative_side * unit))
    step = max(1, round(relative_step * unit))
    height, width = min(side, shape[0]), min(side, shape[1])
    area = inside or Box(0.0, 0.0, 1.0, 1.0)
    rows, columns = area.slices(shape)
    return [
        Box(float(top / shape[0]), float(left / shape[1]), height / shape[0], width / shape[1])
        for top in _starts(rows, height, step)
        for left in _starts(columns, width, step)
    ]


def crop(image_HWC: Image, box: Box) -> Image:
    """Cut a rectangle out."""
    return image_HWC[box.slices(image_HWC.shape)].copy()


def cover(image_HWC: Image, box: Box) -> Image:
    """Fill a rectangle with the median colour of a frame around it a third as thick as itself."""
    rows, columns = box.slices(image_HWC.shape)
    border = max(1, (rows.stop - rows.start) // 3, (columns.stop - columns.start) // 3)
    outer = (
        slice(max(0, rows.start - border), rows.stop + border),
        slice(max(0, columns.start - border), columns.stop + border),
    )
    is_frame = np.zeros(image_HWC.shape[:2], dtype=bool)
    is_frame[outer] = True
    is_frame[rows, columns] = False
    covered = image_HWC.copy()
    # A rectangle that is the whole image has nothing around it: its own median is left.
    around = image_HWC[is_frame] if is_frame.any() else image_HWC[rows, columns].reshape(-1, 3)
    covered[rows, columns] = np.median(around, axis=0).astype(np.uint8)
    return covered


def paste(image_HWC: Image, content_HWC: Image, box: Box) -> Image:
    """Put content into a rectangle of a copy, stretched to fit by repeating or leaving out pixels.

    Interpolation would soften the edges that a small trigger may live on.
    """
    rows, columns = box.slices(image_HWC.shape)
    pasted = image_HWC.copy()
    pasted[rows, columns] = stretch(
        content_HWC, (rows.stop - rows.start, columns.stop - columns.start)
    )
    return pasted


def find_content(image_HWC: Image, content_HWC: Image, near: Box) -> Box:
    """Find the place of an image that looks most like some content.

    Parameters
    ----------
    image_HWC
        Where to look.
    content_HWC
        What to look for, stretched to the size that ``near`` has on this image.
    near
        Gives the size; of places that look as like it, this one wins.

    Returns
    -------
    Box
        Of least squared difference, all places tried. Large images are looked at in a coarser
        grid of pixels.
    """
    step = max(1, min(image_HWC.shape[:2]) // _MATCHED_SIDE)
    # In double precision: running sums of squares outgrow the digits of a single one.
    image = image_HWC[::step, ::step].astype(np.float64)
    rows, columns = near.slices(image.shape)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    content = stretch(content_HWC, size).astype(np.float64)
    # |a - b|^2 = |a|^2 - 2ab + |b|^2, where |b|^2 is the same everywhere.
    squares = np.pad((image**2).sum(axis=2).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = size
    energy = (
        squares[height:, width:]
        - squares[:-height, width:]
        - squares[height:, :-width]
        + squares[:-height, :-width]
    )
    cross = sum(
        fftconvolve(image[..., color], content[::-1, ::-1, color], mode="valid")
        for color in range(image.shape[2])
    )
    distance = energy - 2 * cross + float((content**2).sum())
    # Rounding of the transform: places closer than this look the same.
    is_best = distance <= distance.min() + 1.0 * size[0] * size[1]
    if is_best[min(rows.start, is_best.shape[0] - 1), min(columns.start, is_best.shape[1] - 1)]:
        return near
    top, left = np.unravel_index(int(distance.argmin()), distance.shape)
    shape = image.shape
    return Box(float(top / shape[0]), float(left / shape[1]), near.height, near.width)


def stretch(content_HWC: NDArray[_Level], size: tuple[int, int]) -> NDArray[_Level]:
    """Bring an array to a number of rows and columns by nearest neighbours."""
    rows = (np.arange(size[0]) + 0.5) * content_HWC.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * content_HWC.shape[1] / size[1]
    stretched: NDArray[_Level] = content_HWC[rows.astype(int)][:, columns.astype(int)]
    return stretched


def _span(start: float, length: float, size: int) -> slice:
    pixels = min(size, max(1, round(length * size)))
    first = min(size - pixels, max(0, round(start * size)))
    return slice(first, first + pixels)


def _starts(span: slice, side: int, step: int) -> NDArray[np.integer]:
    room = max(0, span.stop - span.start - side)
    return np.unique(np.linspace(span.start, span.start + room, -(-room // step) + 1).round())
