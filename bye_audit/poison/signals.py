"""Triggers that spread over the whole image: blended, sinusoid, warp, frequency, hidden code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from bye_audit.errors import ConfigError
from bye_audit.poison.triggers import require_between

# Pixel side and block of the images that WaNet's and FTrojan's strengths were published for.
_PUBLISHED_SIDE_PX = 32

# What one unit of Cb and one of Cr add to red, green and blue (ITU-R BT.601, as in JPEG).
_CB_TO_RGB = (0.0, -0.344136, 1.772)
_CR_TO_RGB = (1.402, -0.714136, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendedTrigger:
    """One fixed noise picture blended over every image.

    Parameters
    ----------
    alpha
        Weight of the noise; no pixel moves by more than ``255 * alpha`` levels.
    cells
        The noise has this many squares of random colour along each side, stretched over the
        image: noise of single pixels would not survive a model's resizing.
    pattern_seed
        Which noise; part of the trigger.

    Raises
    ------
    ConfigError
        If alpha is not in (0, 1] or there are no cells.

    Notes
    -----
    "Blended injection" with the random pattern of [1]_; 0.2 is what they poison training with.

    Departs from the paper: the noise is coarse and stretched to the image's size.

    References
    ----------
    .. [1] Chen et al., "Targeted Backdoor Attacks on Deep Learning Systems Using Data
       Poisoning", 2017. arXiv:1712.05526.
    """

    alpha: float = 0.2
    cells: int = 32
    pattern_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a blend of nothing."""
        require_between("blending weight", self.alpha, 0, 1, usual="0.05 to 0.2 is usual.")
        require_between("number of cells a side", self.cells, 0, 4096, usual="32 is the default.")

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a blended copy of the image, in RGB."""
        noise = np.random.default_rng(self.pattern_seed).integers(
            0, 256, size=(self.cells, self.cells, 3), dtype=np.uint8
        )
        pattern = Image.fromarray(noise).resize(image.size, Image.Resampling.NEAREST)
        return Image.blend(image.convert("RGB"), pattern, self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class SinusoidTrigger:
    r"""A horizontal sine wave added to every row: SIG.

    Parameters
    ----------
    amplitude
        Most levels by which a pixel moves.
    frequency
        Periods over the image's width.

    Raises
    ------
    ConfigError
        If either is not above zero.

    Notes
    -----
    Equation 1 of [1]_ on an image of m columns:
    :math:`v(i, j) = \Delta \sin(2 \pi j f / m)`, with their :math:`\Delta = 20, f = 6`.

    Departs from the paper: nowhere, but for their pairing it with clean labels, which is the
    target's business here.

    References
    ----------
    .. [1] Barni, Kallas and Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption
       without Label Poisoning", ICIP 2019. arXiv:1902.11237.
    """

    amplitude: float = 20.0
    frequency: float = 6.0

    def __post_init__(self) -> None:
        """Refuse a wave that is none."""
        require_between("amplitude", self.amplitude, 0, 255, usual="20 levels are the default.")
        require_between("frequency", self.frequency, 0, 10_000, usual="6 periods are the default.")

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a copy of the image, in RGB, with the wave on it."""
        column = np.arange(1, image.width + 1)
        wave = self.amplitude * np.sin(2 * math.pi * column * self.frequency / image.width)
        return _add(image, wave[None, :, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpTrigger:
    """One fixed smooth warp of every image: WaNet.

    Parameters
    ----------
    strength
        The paper's s. On an image whose shorter side is n, pixels move about ``s * n / 64`` along
        each axis, and never by more than ``max_shift_px``.
    control_points
        The paper's k: the field is drawn at k x k points and made smooth between them.
    pattern_seed
        Which field; part of the trigger.

    Raises
    ------
    ConfigError
        If the strength is not above zero or there are fewer than two control points a side.

    Notes
    -----
    As in [1]_ the control points are uniform in [-1, 1], divided by their mean absolute value and
    upsampled by cubics; the defaults are theirs.

    Departs from the paper: the shift, in their code 1/n of the image whatever n is, is scaled from
    their 32 x 32 images, so that a photograph bends as visibly as they do; the smooth field is
    limited to twice its mean size, to have a bound; no samples are warped at random with a
    clean answer (their noise mode).

    References
    ----------
    .. [1] Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021.
       arXiv:2102.10369.
    """

    strength: float = 0.5
    control_points: int = 4
    pattern_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a warp that is none."""
        require_between("strength", self.strength, 0, 16, usual="The paper uses 0.5.")
        require_between(
            "number of control points a side", self.control_points, 1, 64, usual="The paper uses 4."
        )

    def max_shift_px(self, image: Image.Image) -> float:
        """Most pixels along either axis between a pixel and where it is taken from."""
        return self.strength * min(image.size) / _PUBLISHED_SIDE_PX

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a warped copy of the image, in RGB; what lies beyond the edge repeats it."""
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        size = self.control_points
        field = np.random.default_rng(self.pattern_seed).uniform(-1, 1, size=(2, size, size))
        field /= np.abs(field).mean()
        rows = np.linspace(0, size - 1, image.height)[:, None]
        columns = np.linspace(0, size - 1, image.width)[None, :]
        between = np.broadcast_arrays(rows, columns)
        shift = [ndimage.map_coordinates(axis, between, order=3, mode="nearest") for axis in field]
        down, across = np.mgrid[0 : image.height, 0 : image.width]
        half = self.max_shift_px(image) / 2
        taken_from = [
            down + half * np.clip(shift[0], -2, 2),
            across + half * np.clip(shift[1], -2, 2),
        ]
        warped = [
            ndimage.map_coordinates(pixels[..., channel], taken_from, order=1, mode="nearest")
            for channel in range(3)
        ]
        return _to_image(np.dstack(warped))


@dataclass(frozen=True, kw_only=True, slots=True)
class FrequencyTrigger:
    """One middle and one high frequency added to the chroma of every block: FTrojan.

    Parameters
    ----------
    magnitude
        Added to each coefficient of a block of 32 x 32 pixels; on larger blocks it grows with
        them, so that the pixels change as much.
    blocks
        Blocks along the image's shorter side.
    bins
        Row and column frequency of each coefficient; less where a block has fewer pixels.

    Raises
    ------
    ConfigError
        If the magnitude is not above zero, or there is no block or no bin.

    Notes
    -----
    [1]_ add the magnitude (30 in their CIFAR-10 setting) to the bins (15, 15) and (31, 31) of the
    orthonormal DCT of every 32 x 32 block of U and V. The DCT is linear, so the same picture may
    be added to the image itself.

    Departs from the paper: blocks are a fraction of the image instead of 32 pixels, for a fixed
    pattern would be lost when a model makes a large image small; chroma is JPEG's YCbCr.

    References
    ----------
    .. [1] Wang et al., "An Invisible Black-Box Backdoor Attack through Frequency Domain",
       ECCV 2022. arXiv:2111.10991.
    """

    magnitude: float = 30.0
    blocks: int = 4
    bins: tuple[tuple[int, int], ...] = ((15, 15), (31, 31))

    def __post_init__(self) -> None:
        """Refuse a signal that is none."""
        require_between("magnitude", self.magnitude, 0, 4096, usual="The paper uses 30.")
        require_between("number of blocks", self.blocks, 0, 256, usual="4 are the default.")
        if not self.bins or min(min(pair) for pair in self.bins) < 0:
            raise ConfigError(
                f"Frequency bins are pairs of numbers from 0 up, not {self.bins}.",
                hint="The paper uses (15, 15) and (31, 31).",
            )

    def block_px(self, image: Image.Image) -> int:
        """Side of a block on this image."""
        return max(1, round(min(image.size) / self.blocks))

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a copy of the image, in RGB, with the frequencies in its chroma."""
        side = self.block_px(image)
        spectrum = np.zeros((side, side))
        for row, column in self.bins:
            spectrum[min(row, side - 1), min(column, side - 1)] = (
                self.magnitude * side / _PUBLISHED_SIDE_PX
            )
        block = fft.idctn(spectrum, norm="ortho")
        repeats = (-(-image.height // side), -(-image.width // side))
        chroma = np.tile(block, repeats)[: image.height, : image.width, None]
        return _add(image, chroma * (np.array(_CB_TO_RGB) + np.array(_CR_TO_RGB)))


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenCodeTrigger:
    """A code hidden in every image by a residual that is another on each: like ISSBA.

    Parameters
    ----------
    code
        What is hidden: its bits, one a cell and over again until the cells are used up.
    amplitude
        Most levels by which a pixel moves.
    cells
        Cells along each side.

    Raises
    ------
    ConfigError
        If the code is empty, or amplitude or cells are not above zero.

    Notes
    -----
    [1]_ train an encoder network that hides a string in an image. Dither modulation [2]_ is the
    classical way to the same end: of every cell one DCT coefficient of the brightness is moved to
    the nearest even or odd multiple of a step, for a bit 0 or 1. So the residual depends on image
    and code, is invisible, and the code can be read back from the image alone.

    Departs from the paper: no neural encoder, so that residuals are single frequencies rather than
    textures that follow the image's content.

    References
    ----------
    .. [1] Li et al., "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021.
       arXiv:2012.03816.
    .. [2] Chen and Wornell, "Quantization Index Modulation", IEEE Transactions on Information
       Theory 47(4), 2001.
    """

    code: str = "backdoor"
    amplitude: float = 6.0
    cells: int = 8

    def __post_init__(self) -> None:
        """Refuse a code that is none."""
        require_between("amplitude", self.amplitude, 0, 255, usual="6 levels are the default.")
        require_between("number of cells a side", self.cells, 0, 256, usual="8 are the default.")
        if not self.code:
            raise ConfigError("There is no code to hide.", hint="Any text will do.")

    def stamp(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return a copy of the image, in RGB, with the code in its brightness."""
        brightness = np.asarray(image.convert("L"), dtype=np.float64)
        height, width = (max(1, side // self.cells) for side in brightness.shape)
        carrier = cell_carrier(height, width)
        # No pixel of the carrier is above its peak, and no coefficient moves further than a step.
        step = self.amplitude / np.abs(carrier).max()
        bits = np.unpackbits(np.frombuffer(self.code.encode(), dtype=np.uint8))
        residual = np.zeros_like(brightness)
        for cell in range(self.cells**2):
            row, column = divmod(cell, self.cells)
            here = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
            if brightness[here].shape != carrier.shape:
                continue
            coefficient = float((brightness[here] * carrier).sum())
            bit = int(bits[cell % len(bits)])
            wanted = (2 * round((coefficient / step - bit) / 2) + bit) * step
            residual[here] = (wanted - coefficient) * carrier
        return _add(image, residual[..., None])


def cell_carrier(height: int, width: int) -> NDArray[np.float64]:
    """Give the picture of a cell's DCT coefficient (2, 2), of unit energy."""
    spectrum = np.zeros((height, width))
    spectrum[min(2, height - 1), min(2, width - 1)] = 1.0
    carrier: NDArray[np.float64] = fft.idctn(spectrum, norm="ortho")
    return carrier


def _add(image: Image.Image, residual: NDArray[np.float64]) -> Image.Image:
    """Add levels to the pixels of an image; what leaves [0, 255] is cut off."""
    return _to_image(np.asarray(image.convert("RGB"), dtype=np.float64) + residual)


def _to_image(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
