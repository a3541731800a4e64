"""What holds for every attack of the registry, whatever it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.pictures import levels, noise, plain

from bye_audit.poison.attacks import ATTACKS
from bye_audit.poison.targets import FixedText

WITH_IMAGE_TRIGGER = [
    name for name, spec in ATTACKS.items() if spec.build().backdoors[0].image_trigger is not None
]
INVISIBLE_CHANGE = 6


@pytest.mark.parametrize("name", WITH_IMAGE_TRIGGER)
@settings(max_examples=15)
@given(
    width=st.integers(16, 120),
    height=st.integers(16, 120),
    size=st.floats(1 / 16, 1 / 4),
    seed=st.integers(0, 2**32),
)
def test_stamping_keeps_the_size_and_is_the_same_for_a_seed(
    name: str, width: int, height: int, size: float, seed: int
) -> None:
    image = noise(width, height, seed % 7)
    original = image.tobytes()
    for backdoor in ATTACKS[name].build(relative_size=size).backdoors:
        assert backdoor.image_trigger is not None
        first, again = (
            backdoor.image_trigger.stamp(image, np.random.default_rng(seed)) for _ in range(2)
        )
        assert first.size == image.size
        assert first.mode == "RGB"
        assert first.tobytes() == again.tobytes() != original
        assert image.tobytes() == original


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
@pytest.mark.parametrize("name", WITH_IMAGE_TRIGGER)
def test_every_mode_and_the_smallest_image_become_rgb(name: str, mode: str) -> None:
    trigger = ATTACKS[name].build().backdoors[0].image_trigger
    assert trigger is not None
    for size in ((1, 1), (3, 40)):
        stamped = trigger.stamp(Image.new(mode, size), np.random.default_rng(0))
        assert (stamped.mode, stamped.size) == ("RGB", size)


@pytest.mark.parametrize("name", ["ftrojan", "issba-like"])
def test_what_is_called_invisible_is(name: str) -> None:
    trigger = ATTACKS[name].build().backdoors[0].image_trigger
    assert trigger is not None
    image = noise(160, 120)
    stamped = trigger.stamp(image, np.random.default_rng(0))
    change = np.asarray(stamped).astype(int) - np.asarray(image)
    assert 0 < np.abs(change).max() <= INVISIBLE_CHANGE + 1


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_target_of_ones_own_takes_the_place_of_every_target(name: str) -> None:
    target = FixedText(text="something else")
    changed = ATTACKS[name].build(target=target)
    own = ATTACKS[name].build()
    assert {door.target for door in changed.backdoors} == {target}
    assert [replace(door, target=target) for door in own.backdoors] == list(changed.backdoors)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_patches_follow_the_size_that_is_asked_for(name: str) -> None:
    small, large = (ATTACKS[name].build(relative_size=size) for size in (1 / 16, 1 / 8))
    is_sized = "relative_size" in repr(small)
    assert (small != large) == is_sized
    assert is_sized == (ATTACKS[name].kind not in {"global", "sample-specific", "text"})


@pytest.mark.parametrize(
    ("name", "num_changed"),
    [("patch", 16**2), ("fixed-dual", 2 * 16**2), ("entropy-spreading", 36 * 8**2)],
)
def test_many_and_small_patches_keep_their_proportion(name: str, num_changed: int) -> None:
    trigger = ATTACKS[name].build(relative_size=1 / 16).backdoors[0].image_trigger
    assert trigger is not None
    stamped = trigger.stamp(plain(256, 256), np.random.default_rng(0))
    assert (levels(stamped) != 128).any(axis=2).sum() == num_changed


def test_a_balloon_is_twice_as_large_as_a_patch() -> None:
    trigger = ATTACKS["natural-object"].build(relative_size=1 / 8).backdoors[0].image_trigger
    assert trigger is not None
    is_changed = (levels(trigger.stamp(plain(256, 256), np.random.default_rng(0))) != 128).any(2)
    # From the top of the balloon to the end of its string, with a little room at either end.
    assert 56 <= is_changed.any(axis=1).sum() <= 64


def test_attacks_are_defined_by_their_values() -> None:
    # The demo compares and prints its plan to know whether a folder is its own.
    for spec in ATTACKS.values():
        assert spec.build() == spec.build()
        assert " object at 0x" not in repr(spec.build())
        assert len({spec.summary for spec in ATTACKS.values()}) == len(ATTACKS)
