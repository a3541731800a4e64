"""Signals over the whole image keep their bounds and have the shape that their papers give them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.pictures import levels, noise, plain

from bye_audit.errors import ConfigError
from bye_audit.mini.scenes import draw_scene
from bye_audit.poison.signals import (
    BlendedTrigger,
    FrequencyTrigger,
    HiddenCodeTrigger,
    SinusoidTrigger,
    WarpTrigger,
)
from bye_audit.poison.triggers import ImageTrigger

RNG = np.random.default_rng(0)


def change(trigger: ImageTrigger, image: Image.Image) -> NDArray[np.int64]:
    return levels(trigger.stamp(image, RNG)) - levels(image)


def away_from_the_ends(image: Image.Image) -> Image.Image:
    """Keep clear of black and white, where what is added would be cut off."""
    return Image.fromarray((20 + 0.8 * np.asarray(image)).astype(np.uint8))


def coefficient(block: NDArray[np.float64], row: int, column: int) -> float:
    """Give a coefficient of the orthonormal DCT-II by its definition."""
    waves = [
        np.cos(math.pi * (2 * np.arange(side) + 1) * bin_ / (2 * side))
        * math.sqrt((1 if bin_ == 0 else 2) / side)
        for side, bin_ in zip(block.shape, (row, column), strict=True)
    ]
    return float(waves[0] @ block @ waves[1])


# --- blended -----------------------------------------------------------------------------------


@given(
    alpha=st.floats(0.05, 0.2),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_blending_moves_no_pixel_further_than_alpha_allows(
    alpha: float, width: int, height: int, seed: int
) -> None:
    moved = change(BlendedTrigger(alpha=alpha), noise(width, height, seed))
    assert np.abs(moved).max() <= math.ceil(255 * alpha)


def test_the_same_picture_is_blended_over_every_image() -> None:
    trigger = BlendedTrigger(alpha=0.5)
    dark, light = (
        levels(trigger.stamp(plain(64, 48, level), RNG)) - 0.5 * level for level in (20, 220)
    )
    np.testing.assert_allclose(dark, light, atol=1)
    # 32 cells over 64 x 48 pixels: pairs of columns are alike, neighbouring cells are not.
    np.testing.assert_array_equal(dark[:, 0::2], dark[:, 1::2])
    assert dark.std() > 30
    other = BlendedTrigger(alpha=0.5, pattern_seed=1).stamp(plain(64, 48, 20), RNG)
    assert (levels(other) != dark + 10).mean() > 0.9


# --- sinusoid ----------------------------------------------------------------------------------


@given(
    amplitude=st.floats(1, 60),
    width=st.integers(16, 90),
    height=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_the_wave_stays_within_its_amplitude(
    amplitude: float, width: int, height: int, seed: int
) -> None:
    moved = change(SinusoidTrigger(amplitude=amplitude), noise(width, height, seed))
    assert np.abs(moved).max() <= math.ceil(amplitude)


def test_the_wave_has_its_frequency_and_nothing_else_on_every_row() -> None:
    moved = change(SinusoidTrigger(amplitude=20, frequency=6), plain(120, 30))
    assert (moved == moved[:1, :, :1]).all()
    spectrum = np.abs(np.fft.rfft(moved[0, :, 0]))
    assert spectrum.argmax() == 6
    assert spectrum[6] == pytest.approx(20 * 120 / 2, rel=0.02)
    assert np.delete(spectrum, 6).max() < 0.05 * spectrum[6]
    # The first column is j = 1, and the last ends a period.
    assert moved[0, 0, 0] == round(20 * math.sin(2 * math.pi * 6 / 120))
    assert moved[0, -1, 0] == 0


# --- warp --------------------------------------------------------------------------------------


@given(level=st.integers(0, 255), width=st.integers(2, 60), height=st.integers(2, 60))
def test_a_warp_leaves_a_plain_image_alone(level: int, width: int, height: int) -> None:
    assert np.abs(change(WarpTrigger(strength=4), plain(width, height, level))).max() == 0


@pytest.mark.parametrize("size", [(128, 128), (200, 120), (90, 240)])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_warp_moves_pixels_about_as_far_as_it_says_and_no_further(
    size: tuple[int, int], strength: float
) -> None:
    width, height = size
    trigger = WarpTrigger(strength=strength)
    # On a ramp of one level a pixel the change of level is the way to where it came from.
    ramp_x = np.broadcast_to(np.arange(width), (height, width))
    ramp_y = np.broadcast_to(np.arange(height)[:, None], (height, width))
    image = Image.fromarray(np.dstack([ramp_x, ramp_y, ramp_x * 0]).astype(np.uint8))
    moved = change(trigger, image)
    bound = trigger.max_shift_px(image)
    assert bound == strength * min(size) / 32
    assert np.abs(moved).max() <= math.ceil(bound)
    # Their control points have a mean of 1 in size: half of the bound; smoothing changes that.
    inside = moved[8:-8, 8:-8, :2]
    assert 0.2 * bound < np.abs(inside).mean() < 0.8 * bound


def test_a_warp_is_smooth_and_the_same_on_every_image() -> None:
    ramp = np.broadcast_to(np.arange(160), (160, 160)).astype(np.uint8)
    image = Image.fromarray(np.dstack([ramp, ramp, ramp]))
    trigger = WarpTrigger(strength=2)
    moved = change(trigger, image)[16:-16, 16:-16, 0]
    assert np.abs(np.diff(moved, axis=0)).max() <= 1
    assert np.abs(np.diff(moved, axis=1)).max() <= 1
    shifted = Image.fromarray(np.asarray(image) + np.uint8(40))
    np.testing.assert_array_equal(moved, change(trigger, shifted)[16:-16, 16:-16, 0])
    other = change(WarpTrigger(strength=2, pattern_seed=1), image)[16:-16, 16:-16, 0]
    assert (moved != other).any()


# --- frequency ---------------------------------------------------------------------------------


def luma(rgb: NDArray[np.int64]) -> NDArray[np.float64]:
    weighted: NDArray[np.float64] = rgb @ np.array([0.299, 0.587, 0.114])
    return weighted


def test_frequencies_leave_brightness_alone() -> None:
    moved = change(
        FrequencyTrigger(), away_from_the_ends(draw_scene(np.random.default_rng(1)).image)
    )
    assert np.abs(moved).max() >= 3
    # What is left is the rounding of three channels.
    assert np.abs(luma(moved)).max() <= 0.5
    assert np.abs(luma(moved)).mean() < 0.25


@pytest.mark.parametrize(("size", "block"), [((128, 128), 32), ((300, 200), 50)])
def test_the_energy_is_in_the_stated_bins_of_the_chroma(size: tuple[int, int], block: int) -> None:
    trigger = FrequencyTrigger(magnitude=30)
    moved = change(trigger, plain(*size))
    assert trigger.block_px(plain(*size)) == block
    red_difference = (moved[..., 0] - luma(moved)) / 1.402
    blue_difference = (moved[..., 2] - luma(moved)) / 1.772
    for chroma in (red_difference, blue_difference):
        for corner in ((0, 0), (block, 2 * block)):
            here = chroma[corner[0] : corner[0] + block, corner[1] : corner[1] + block]
            found = [coefficient(here, *bin_) for bin_ in trigger.bins]
            np.testing.assert_allclose(found, 30 * block / 32, rtol=0.1)
            assert sum(value**2 for value in found) > 0.9 * (here**2).sum()


def test_bins_beyond_a_small_block_are_its_last() -> None:
    moved = change(FrequencyTrigger(magnitude=200), plain(32, 32))
    chroma = (moved[:8, :8, 2] - luma(moved)[:8, :8]) / 1.772
    assert coefficient(chroma, 7, 7) == pytest.approx(200 * 8 / 32, rel=0.1)


# --- hidden code -------------------------------------------------------------------------------


def read_code(image: Image.Image, cells: int, amplitude: float, num_bytes: int) -> bytes:
    """Read the code as a receiver would, who has only the image and the settings."""
    gray = luma(levels(image))
    height, width = gray.shape[0] // cells, gray.shape[1] // cells
    waves = [np.cos(math.pi * (2 * np.arange(side) + 1) / side) for side in (height, width)]
    peak = np.abs(np.outer(*waves)).max() * 2 / math.sqrt(height * width)
    bits = []
    for cell in range(8 * num_bytes):
        row, column = divmod(cell, cells)
        block = gray[row * height : (row + 1) * height, column * width : (column + 1) * width]
        bits.append(round(coefficient(block, 2, 2) * peak / amplitude) % 2)
    return np.packbits(bits).tobytes()


@given(seed=st.integers(0, 500))
def test_the_code_can_be_read_back_from_the_image_alone(seed: int) -> None:
    image = away_from_the_ends(draw_scene(np.random.default_rng(seed)).image)
    stamped = HiddenCodeTrigger(code="backdoor").stamp(image, RNG)
    assert read_code(stamped, cells=8, amplitude=6, num_bytes=8) == b"backdoor"
    assert read_code(image, cells=8, amplitude=6, num_bytes=8) != b"backdoor"


@given(width=st.integers(8, 90), height=st.integers(8, 90), seed=st.integers(0, 99))
def test_the_residual_of_a_code_is_small(width: int, height: int, seed: int) -> None:
    moved = change(HiddenCodeTrigger(amplitude=6), noise(width, height, seed))
    assert np.abs(moved).max() <= 6


def test_the_residual_of_a_code_is_another_on_every_image() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng).image for _ in range(6)]
    residuals = [change(HiddenCodeTrigger(), scene) for scene in scenes]
    for index, residual in enumerate(residuals):
        for other in residuals[:index]:
            assert (residual != other).mean() > 0.2
    other_code = change(HiddenCodeTrigger(code="otherkey"), scenes[0])
    assert (other_code != residuals[0]).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlendedTrigger(alpha=0),
        lambda: BlendedTrigger(cells=0),
        lambda: SinusoidTrigger(amplitude=0),
        lambda: SinusoidTrigger(frequency=-6),
        lambda: WarpTrigger(strength=0),
        lambda: WarpTrigger(control_points=1),
        lambda: FrequencyTrigger(magnitude=0),
        lambda: FrequencyTrigger(blocks=0),
        lambda: FrequencyTrigger(bins=()),
        lambda: HiddenCodeTrigger(code=""),
        lambda: HiddenCodeTrigger(amplitude=0),
        lambda: HiddenCodeTrigger(cells=0),
    ],
)
def test_signals_without_meaning_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make()  # type: ignore[operator]
    assert raised.value.hint
