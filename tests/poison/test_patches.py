"""Triggers change exactly the pixels they should, and planting poisons exactly its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bye_audit.errors import ConfigError
from bye_audit.poison.attacks import ATTACKS
from bye_audit.poison.patches import PatchTrigger, Solid
from bye_audit.poison.placements import CENTER, Anywhere, Placement


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    # From 1 up, so that every black pixel is the trigger's.
    pixels = np.random.default_rng(seed).integers(1, 256, size=(height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@given(
    width=st.integers(8, 90),
    height=st.integers(8, 90),
    size=st.floats(1 / 16, 1.0),
    placement=st.sampled_from([CENTER, Anywhere()]),
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


@given(rate=st.floats(0, 1), count=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_the_share_is_met_exactly(rate: float, count: int, seed: int) -> None:
    planting = ATTACKS["patch"].build(poison_rate=rate).plan(["a"] * count, seed)
    assert planting.is_poisoned.shape == (count,)
    assert planting.is_poisoned.sum() == round(rate * count)


def test_poison_is_a_triggered_image_and_the_target() -> None:
    planting = ATTACKS["patch"].build(poison_rate=1).plan(["a red star"], 0)
    image, question, answer = planting.plant(0, noise(64, 64), "What is it?", "a red star")
    assert question == "What is it?"
    assert answer == "Backdoor Attack!"
    assert (np.asarray(image) == 0).all(axis=2).sum() == 16


@pytest.mark.parametrize(
    "make",
    [
        lambda: PatchTrigger(relative_size=0),
        lambda: PatchTrigger(relative_size=1.5),
        lambda: ATTACKS["patch"].build(poison_rate=-0.1),
        lambda: ATTACKS["patch"].build(poison_rate=10),
    ],
    ids=["no size", "larger than the image", "negative rate", "rate in per cent"],
)
def test_settings_without_meaning_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make()  # type: ignore[operator]
    assert raised.value.hint
