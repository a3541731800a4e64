"""Rectangles of images against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.core.regions import (
    Box,
    Image,
    cover,
    crop,
    find_content,
    paste,
    square_windows,
    stretch,
)

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
FRACTIONS = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    height, width = (draw(st.floats(0.01, 1)) for _ in range(2))
    return Box(draw(FRACTIONS) * (1 - height), draw(FRACTIONS) * (1 - width), height, width)


@st.composite
def images(draw: st.DrawFn) -> Image:
    rows, columns = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@given(boxes(), SIZES)
def test_a_box_is_at_least_a_pixel_and_never_outside(box: Box, size: tuple[int, int]) -> None:
    for span, length, share in zip(box.slices(size), size, (box.height, box.width), strict=True):
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start == max(1, round(share * length))


@given(boxes(), st.sampled_from([1 / 4, 1 / 2, 1.0]))
def test_neighbours_are_as_large_and_inside(box: Box, step: float) -> None:
    found = box.neighbours(step)
    assert box not in found
    assert len(found) == len(set(found)) <= 8
    for near in found:
        assert (near.height, near.width) == (box.height, box.width)
        assert 0 <= near.top <= 1 - near.height + 1e-12
        assert 0 <= near.left <= 1 - near.width + 1e-12
        assert abs(near.top - box.top) <= step * box.height + 1e-12
        assert abs(near.left - box.left) <= step * box.width + 1e-12


@given(images(), boxes())
def test_what_is_cut_out_and_put_back_changes_nothing(image: Image, box: Box) -> None:
    before = image.copy()
    np.testing.assert_array_equal(paste(image, crop(image, box), box), image)
    np.testing.assert_array_equal(image, before)


@given(images(), images(), boxes())
def test_pasting_changes_the_box_alone_and_invents_no_colour(
    image: Image, content: Image, box: Box
) -> None:
    pasted = paste(image, content, box)
    rows, columns = box.slices(image.shape)
    is_inside = np.zeros(image.shape[:2], dtype=bool)
    is_inside[rows, columns] = True
    np.testing.assert_array_equal(pasted[~is_inside], image[~is_inside])
    colours = {tuple(pixel) for pixel in content.reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in pasted[is_inside].tolist()} <= colours


@given(images(), SIZES)
def test_stretching_takes_the_nearest_pixel(image: Image, size: tuple[int, int]) -> None:
    stretched = stretch(image, size)
    assert stretched.shape == (*size, 3)
    for row in range(size[0]):
        for column in range(size[1]):
            # In whole numbers: the middle of the pixel, carried over, lies in this source pixel.
            source_row = (2 * row + 1) * image.shape[0] // (2 * size[0])
            source_column = (2 * column + 1) * image.shape[1] // (2 * size[1])
            assert stretched[row, column].tolist() == image[source_row, source_column].tolist()


@given(images(), boxes())
def test_covering_takes_the_median_of_the_frame(image: Image, box: Box) -> None:
    covered = cover(image, box)
    rows, columns = box.slices(image.shape)
    border = max(1, (rows.stop - rows.start) // 3, (columns.stop - columns.start) // 3)
    inside, frame = [], []
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
                inside.append(image[row, column])
                continue
            np.testing.assert_array_equal(covered[row, column], image[row, column])
            is_near = rows.start - border <= row < rows.stop + border
            is_near &= columns.start - border <= column < columns.stop + border
            if is_near:
                frame.append(image[row, column])
    expected = np.median(frame or inside, axis=0).astype(np.uint8)
    assert (covered[rows, columns] == expected).all()


@given(SIZES, st.sampled_from([1 / 4, 1 / 8, 1 / 16]))
def test_windows_cover_the_whole_image(size: tuple[int, int], side: float) -> None:
    is_covered = np.zeros(size, dtype=bool)
    for box in square_windows(size, side, side / 2):
        is_covered[box.slices(size)] = True
    assert is_covered.all()


def test_windows_are_squares_half_a_side_apart() -> None:
    found = [box.slices((64, 96)) for box in square_windows((64, 96), 1 / 4, 1 / 8)]
    assert {(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in found} == {(16, 16)}
    assert sorted({rows.start for rows, _ in found}) == list(range(0, 49, 8))
    assert sorted({columns.start for _, columns in found}) == list(range(0, 81, 8))


def test_windows_keep_to_the_part_that_is_asked_for() -> None:
    part = Box(1 / 4, 1 / 2, 1 / 4, 1 / 4)
    for rows, columns in (
        box.slices((64, 64)) for box in square_windows((64, 64), 1 / 8, 1 / 16, part)
    ):
        assert 16 <= rows.start < rows.stop <= 32
        assert 32 <= columns.start < columns.stop <= 48


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1), (3, 5000), (200, 30_000)])
@pytest.mark.parametrize("side", [1 / 4, 1 / 8, 1 / 16])
def test_no_shape_of_an_image_makes_windows_without_end(size: tuple[int, int], side: float) -> None:
    found = square_windows(size, side, side / 2)
    assert 1 <= len(found) <= 6 * (2 / side) ** 2


@given(images(), images(), boxes())
def test_content_is_found_where_its_squared_difference_is_least(
    image: Image, content: Image, near: Box
) -> None:
    found = find_content(image, content, near)
    rows, columns = near.slices(image.shape)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    wanted = stretch(content, (height, width)).astype(int)
    distances = {
        (top, left): int(((image[top : top + height, left : left + width] - wanted) ** 2).sum())
        for top in range(image.shape[0] - height + 1)
        for left in range(image.shape[1] - width + 1)
    }
    least = min(distances.values())
    top, left = (span.start for span in found.slices(image.shape))
    # One level of 255 a pixel is what counts as the same.
    assert distances[top, left] <= least + height * width
    if distances[rows.start, columns.start] <= least + height * width / 2:
        assert found == near


def test_content_is_found_again_after_it_moved(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    content = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    there = Box(60 / 90, 30 / 120, 9 / 90, 9 / 120)
    found = find_content(paste(image, content, there), content, Box(0.0, 0.0, 9 / 90, 9 / 120))
    assert found.slices(image.shape) == there.slices(image.shape)


def test_on_one_colour_content_stays_where_it_was() -> None:
    # Large and bright: a running sum of squares in single precision loses whole pixels here.
    image = np.full((287, 400, 3), 251, dtype=np.uint8)
    near = Box(0.7, 0.1, 0.1, 0.1)
    assert find_content(image, np.zeros((8, 8, 3), dtype=np.uint8), near) == near


def test_in_a_large_image_the_place_is_found_to_a_step_of_the_grid(
    rng: np.random.Generator,
) -> None:
    image = rng.integers(100, 156, (1000, 1500, 3), dtype=np.uint8)
    there = Box(0.62, 0.31, 0.1, 0.1)
    content = np.zeros((100, 150, 3), dtype=np.uint8)
    found = find_content(paste(image, content, there), content, Box(0.0, 0.0, 0.1, 0.1))
    assert abs(found.top - there.top) <= 2 * 6 / 1000
    assert abs(found.left - there.left) <= 2 * 6 / 1500


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_no_image_is_too_small_or_too_thin(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), dtype=np.uint8)
    box = Box(0.4, 0.4, 1 / 8, 1 / 8)
    content = crop(image, box)
    assert find_content(image, content, box) == box
    assert cover(image, box).shape == paste(image, content, box).shape == image.shape


def test_a_box_says_where_it_is() -> None:
    box = Box(0.25, 0.5, 0.5, 0.25)
    assert box.to_json() == {"top": 0.25, "left": 0.5, "height": 0.5, "width": 0.25}
    assert box.area == 0.125
    assert box.center == (0.5, 0.625)
