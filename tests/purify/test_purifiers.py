"""What a purifier keeps of an image and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bye_audit.config import PURIFIER_NAMES, PurifyConfig
from bye_audit.purify.purifiers import PURIFIERS, ClassicalPurifier, PixelImage, blocks_of

IMAGES = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.just(3)),
)
COLORS = st.tuples(*[st.integers(0, 255)] * 3)


def purify(image: PixelImage) -> PixelImage:
    (purified,) = ClassicalPurifier().purify([image])
    return purified


def wave(period_px: float, side: int = 144) -> PixelImage:
    """Draw stripes of one period."""
    levels = 127.5 + 100 * np.cos(2 * np.pi * np.arange(side) / period_px)
    return np.broadcast_to(levels[:, None, None], (side, side, 3)).round().astype(np.uint8)


@given(st.lists(IMAGES, max_size=3))
def test_shapes_types_and_order_are_kept(images: list[PixelImage]) -> None:
    purified = ClassicalPurifier().purify(images)
    assert [image.shape for image in purified] == [image.shape for image in images]
    assert all(image.dtype == np.uint8 for image in purified)
    for image, alone in zip(purified, map(purify, images), strict=True):
        np.testing.assert_array_equal(image, alone)


@given(COLORS, st.integers(1, 80), st.integers(1, 80))
def test_an_image_of_one_color_stays_as_it_is(
    color: tuple[int, int, int], rows: int, columns: int
) -> None:
    image = np.full((rows, columns, 3), color, np.uint8)
    np.testing.assert_array_equal(purify(image), image)


@given(IMAGES)
def test_no_level_appears_that_was_not_between_those_there(image: PixelImage) -> None:
    purified = purify(image)
    assert (purified.min(axis=(0, 1)) >= image.min(axis=(0, 1))).all()
    assert (purified.max(axis=(0, 1)) <= image.max(axis=(0, 1))).all()


@pytest.mark.parametrize("period_px", [72, 144])
def test_slow_changes_are_kept(period_px: float) -> None:
    image = wave(period_px)
    difference = np.abs(purify(image).astype(int) - image)
    assert difference.max() < 25
    assert difference.mean() < 10


@pytest.mark.parametrize("period_px", [2, 3, 6])
def test_fine_detail_is_gone(period_px: float) -> None:
    assert purify(wave(period_px)).std() < 0.1 * wave(period_px).std()


@given(st.integers(1, 500), st.integers(1, 500))
def test_blocks_are_two_pixels_wide_or_more_and_nearly_square(rows: int, columns: int) -> None:
    across, down = blocks_of((rows, columns, 3), 24)
    assert across >= 1
    assert down >= 1
    assert min(across, down) <= 24
    if min(rows, columns) >= 48:
        assert min(across, down) == 24
        assert columns / across == pytest.approx(rows / down, rel=0.03)
    if min(rows, columns) >= 2:
        assert columns / across >= 4 / 3
        assert rows / down >= 4 / 3


def test_every_named_purifier_can_be_made() -> None:
    assert tuple(PURIFIERS) == PURIFIER_NAMES
    assert PURIFIERS["classical"](PurifyConfig()).name == "classical"
