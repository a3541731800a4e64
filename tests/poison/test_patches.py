"""Patches change exactly the pixels they should, where they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import levels, noise, plain

from bye_audit.errors import ConfigError
from bye_audit.mini.scenes import UNSEEN_TEXTURES, draw_scene
from bye_audit.poison.patches import Balloon, Checkerboard, Logo, PatchTrigger, Pattern, Solid
from bye_audit.poison.placements import (
    CENTER,
    Anywhere,
    FixedPoints,
    MostSalient,
    OneInEachCell,
    Placement,
    SomePoints,
    grid_points,
)

ONE_SQUARE = [CENTER, Anywhere(), MostSalient(), FixedPoints(points=((1, 0),))]


def black_squares(image: Image.Image) -> np.ndarray:
    is_black: np.ndarray = (np.asarray(image) == 0).all(axis=2)
    return is_black


@given(
    width=st.integers(8, 90),
    height=st.integers(8, 90),
    size=st.floats(1 / 16, 1.0),
    placement=st.sampled_from(ONE_SQUARE),
    seed=st.integers(0, 2**32),
)
def test_exactly_one_square_inside_the_image_changes(
    width: int, height: int, size: float, placement: Placement, seed: int
) -> None:
    image = noise(width, height)
    trigger = PatchTrigger(relative_size=size, placement=placement)
    stamped = trigger.stamp(image, np.random.default_rng(seed))
    before, after = np.asarray(image), np.asarray(stamped)
    is_black = (after == 0).all(axis=2)
    rows, columns = np.flatnonzero(is_black.any(axis=1)), np.flatnonzero(is_black.any(axis=0))
    side = max(1, round(min(width, height) * size))
    assert len(rows) == len(columns) == side
    assert is_black.sum() == side**2
    assert (before[~is_black] == after[~is_black]).all()


def test_the_default_sits_in_the_middle_and_leaves_the_original_alone() -> None:
    image = noise(160, 96)
    copy = np.array(image)
    stamped = np.asarray(PatchTrigger().stamp(image, np.random.default_rng(0)))
    assert (stamped[45:51, 77:83] == 0).all()
    assert (np.asarray(image) == copy).all()


def test_a_random_position_wanders() -> None:
    trigger, rng = PatchTrigger(placement=Anywhere()), np.random.default_rng(0)
    image = noise(64, 64)
    places = {np.asarray(trigger.stamp(image, rng)).argmin() for _ in range(20)}
    assert len(places) > 10


def test_images_of_other_modes_become_rgb() -> None:
    stamped = PatchTrigger(pattern=Solid(color=(255, 0, 0))).stamp(
        Image.new("L", (32, 32), 90), np.random.default_rng(0)
    )
    assert stamped.mode == "RGB"
    assert stamped.getpixel((15, 15)) == (255, 0, 0)


def test_a_corner_patch_touches_both_edges() -> None:
    trigger = PatchTrigger(relative_size=1 / 8, placement=FixedPoints(points=((1, 1),)))
    is_black = black_squares(trigger.stamp(noise(80, 64), np.random.default_rng(0)))
    assert is_black[56:, 72:].all()
    assert is_black.sum() == 64


def test_a_pair_is_symmetric_about_the_upright_middle() -> None:
    trigger = PatchTrigger(
        relative_size=1 / 8, placement=FixedPoints(points=((0.25, 0.5), (0.75, 0.5)))
    )
    is_black = black_squares(trigger.stamp(noise(80, 64), np.random.default_rng(0)))
    assert is_black.sum() == 2 * 64
    assert (is_black == is_black[:, ::-1]).all()


def test_several_points_of_a_grid_are_taken_and_others_on_other_images() -> None:
    trigger = PatchTrigger(
        relative_size=1 / 16, placement=SomePoints(points=grid_points(3), count=4)
    )
    rng = np.random.default_rng(0)
    stamps = [black_squares(trigger.stamp(noise(96, 96), rng)) for _ in range(12)]
    assert {int(stamp.sum()) for stamp in stamps} == {4 * 36}
    assert len({stamp.tobytes() for stamp in stamps}) > 6
    # All of them together are squares around 1/6, 3/6 and 5/6 of either side.
    used = np.logical_or.reduce(stamps)
    edges = np.flatnonzero(np.diff(used.any(axis=0).astype(int)))
    np.testing.assert_array_equal(edges, [12, 18, 44, 50, 76, 82])


@given(seed=st.integers(0, 2**32), cells=st.integers(1, 6))
def test_spread_patches_lie_one_in_each_cell(seed: int, cells: int) -> None:
    image = plain(96, 96)
    corners = OneInEachCell(cells=cells).corners(image, 4, np.random.default_rng(seed))
    centres = {((left + 2) * cells // 96, (top + 2) * cells // 96) for left, top in corners}
    assert len(corners) == len(centres) == cells**2


def test_the_salient_place_is_the_object_of_a_scene() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene = draw_scene(rng, textures=UNSEEN_TEXTURES, max_objects=1)
        ((left, top),) = MostSalient().corners(scene.image, 18, rng)
        x, y = scene.objects[0].center_px
        # Objects at the frame's edge have their square moved inside.
        assert np.hypot(left + 9 - x, top + 9 - y) <= scene.objects[0].radius_px + 3


def test_a_checkerboard_has_as_many_fields_as_asked_half_of_them_white() -> None:
    board = np.asarray(Checkerboard(fields=4).draw(8))[..., 0]
    np.testing.assert_array_equal(board[0], [0, 0, 255, 255, 0, 0, 255, 255])
    np.testing.assert_array_equal(board[2], 255 - board[0])
    assert board.mean() == 127.5


def test_low_contrast_darkens_by_its_opacity_and_hides_nothing() -> None:
    image = noise(64, 64)
    trigger = PatchTrigger(relative_size=1 / 4, pattern=Solid(opacity=0.15))
    change = levels(image) - levels(trigger.stamp(image, np.random.default_rng(0)))
    inside = np.s_[24:40, 24:40]
    np.testing.assert_allclose(change[inside], 0.15 * levels(image)[inside], atol=1)
    assert np.delete(change, np.s_[24:40], axis=0).max() == 0


@pytest.mark.parametrize("pattern", [Logo(), Balloon()], ids=["logo", "balloon"])
def test_drawn_pictures_have_colours_and_soft_edges_and_stay_in_their_square(
    pattern: Pattern,
) -> None:
    picture = np.asarray(pattern.draw(40))
    assert picture.shape == (40, 40, 4)
    alpha = picture[..., 3]
    assert ((alpha > 0) & (alpha < 200)).sum() > 20
    assert alpha[0, 0] == 0
    assert len(np.unique(picture[alpha > 200][:, :3] // 64, axis=0)) >= 4
    image = plain(120, 90)
    trigger = PatchTrigger(relative_size=40 / 90, pattern=pattern, placement=Anywhere())
    is_changed = (levels(trigger.stamp(image, np.random.default_rng(5))) != 128).any(axis=2)
    rows, columns = np.nonzero(is_changed)
    assert np.ptp(rows) < 40
    assert np.ptp(columns) < 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: PatchTrigger(relative_size=0),
        lambda: PatchTrigger(relative_size=1.5),
        lambda: Solid(opacity=0),
        lambda: Checkerboard(fields=1),
        lambda: FixedPoints(points=((0.5, 1.5),)),
        lambda: SomePoints(points=((0.5, 0.5),), count=2),
        lambda: OneInEachCell(cells=0),
    ],
    ids=[
        "no size",
        "larger than the image",
        "invisible",
        "a board of one field",
        "outside",
        "more patches than points",
        "no cell",
    ],
)
def test_settings_without_meaning_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make()  # type: ignore[operator]
    assert raised.value.hint
