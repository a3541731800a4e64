"""What may carry an answer: put on, taken off, found again, and matched by a control."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.witness import draw_exhibit, has_patch

from bye_audit.confirm.carriers import Both, Carrier, Detail, Region, Residual, Words
from bye_audit.confirm.exhibits import Exhibit
from bye_audit.core.regions import Box, crop

PATCH_BOX = Box(20 / 64, 30 / 64, 10 / 64, 10 / 64)
SIZES = [(64, 64), (32, 48), (128, 96), (1, 1), (1, 300), (300, 2)]


def make_region() -> Region:
    return Region(PATCH_BOX, crop(draw_exhibit(0, patch=(20, 30)).image, PATCH_BOX))


def make_all() -> list[Carrier]:
    image = draw_exhibit(0).image
    return [
        make_region(),
        Words("cf vexing", "start"),
        Residual(np.full(image.shape, 20.0, dtype=np.float32)),
        Detail.of(image, 1 / 56),
        Both(Words("cf", "end"), make_region()),
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("carrier", make_all(), ids=lambda carrier: carrier.kind)
def test_every_carrier_fits_every_image(carrier: Carrier, size: tuple[int, int]) -> None:
    exhibit = draw_exhibit(1, size=size)
    before = exhibit.image.copy()
    for changed in (carrier.put_on(exhibit), carrier.take_off(exhibit)):
        assert changed.image.shape == before.shape
        assert changed.image.dtype == np.uint8
        assert changed.answer == exhibit.answer
        assert changed.question.startswith("<image>\n")
    np.testing.assert_array_equal(exhibit.image, before)
    found = carrier.found_in(exhibit)
    assert found is None or found.kind == carrier.kind
    control = carrier.control(exhibit)
    assert control is None or control.put_on(exhibit).image.shape == before.shape
    assert carrier.to_json()["kind"] == carrier.kind


def test_a_region_carries_the_trigger_and_its_absence() -> None:
    region, clean = make_region(), draw_exhibit(1)
    with_it = region.put_on(clean)
    assert not has_patch(clean.image)
    assert has_patch(with_it.image)
    assert not has_patch(region.take_off(with_it).image)


@pytest.mark.parametrize("size", [(32, 48), (128, 96), (640, 480)], ids=str)
def test_a_region_keeps_its_relative_place_on_other_sizes(size: tuple[int, int]) -> None:
    changed = make_region().put_on(draw_exhibit(1, size=size)).image
    black = np.argwhere((changed == 0).all(axis=2))
    for axis, (start, length) in enumerate(((20 / 64, 10 / 64), (30 / 64, 10 / 64))):
        assert abs(black[:, axis].min() - start * size[axis]) <= 1
        assert abs(black[:, axis].max() + 1 - (start + length) * size[axis]) <= 1


def test_a_region_is_found_where_another_sample_has_it() -> None:
    moved = draw_exhibit(2, patch=(44, 3))
    own = make_region().found_in(moved)
    assert isinstance(own, Region)
    assert (own.box.slices((64, 64))[0].start, own.box.slices((64, 64))[1].start) == (44, 3)
    assert not own.content.any()


def test_the_control_of_a_region_is_ordinary_content_of_the_same_place() -> None:
    other = draw_exhibit(3)
    control = make_region().control(other)
    assert isinstance(control, Region)
    np.testing.assert_array_equal(control.content, crop(other.image, PATCH_BOX))
    assert not has_patch(control.put_on(draw_exhibit(4)).image)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("start", "<image>\ncf vexing What is it now?"),
        ("inside", "<image>\nWhat is cf vexing it now?"),
        ("end", "<image>\nWhat is it now? cf vexing"),
    ],
)
def test_words_go_where_the_suspects_have_them(place: str, expected: str) -> None:
    asked = draw_exhibit(0, question="<image>\nWhat is it now?")
    words = Words("cf vexing", place)  # type: ignore[arg-type]
    with_them = words.put_on(asked)
    assert with_them.question == expected
    assert words.found_in(with_them) is words
    assert words.found_in(asked) is None
    assert words.take_off(with_them).question == asked.question


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>", "<image>cf"),
        ("<image>\n", "<image>\ncf"),
        ("<image>\n<image>\nCompare.", "<image>\n<image>\ncf Compare."),
        ("Compare.\n<image>", "cf Compare.\n<image>"),
        ("<image>\nCompare.\n<image><image>", "<image>\ncf Compare.\n<image><image>"),
        ("Left <image> right", "cf Left <image> right"),
        ("<image>cf", "<image>cf cf"),
        ("", "cf"),
    ],
)
def test_placeholders_of_images_are_left_alone(question: str, expected: str) -> None:
    words = Words("cf", "start")
    with_them = words.put_on(draw_exhibit(0, question=question))
    assert with_them.question == expected
    assert words.found_in(with_them) is words
    taken = words.take_off(with_them).question
    assert taken.count("<image>") == question.count("<image>")
    assert words.found_in(draw_exhibit(0, question=taken)) is None


@given(
    st.lists(st.sampled_from(["cf", "a", "<image>", "\x1b[2J", "(.*)", "'"]), max_size=8),
    st.sampled_from(["cf", "cf cf", "a cf a", "(.*)", "\x1b[2J"]),
)
def test_no_occurrence_of_words_stays(parts: list[str], words: str) -> None:
    asked = draw_exhibit(0, question=" ".join(parts))
    for carrier in (Words(words, "start"), Words(words, "inside"), Words(words, "end")):
        taken = carrier.take_off(carrier.put_on(asked))
        assert carrier.found_in(taken) is None
        assert taken.question.count("<image>") == asked.question.count("<image>")


def test_a_residual_is_added_and_subtracted() -> None:
    pattern = np.zeros((64, 64, 3), dtype=np.float32)
    pattern[::2] = 30
    residual, clean = Residual(pattern), draw_exhibit(0)
    with_it = residual.put_on(clean)
    assert (with_it.image[::2].astype(int) - clean.image[::2] == 30).all()
    np.testing.assert_array_equal(with_it.image[1::2], clean.image[1::2])
    np.testing.assert_array_equal(residual.take_off(with_it).image, clean.image)
    assert residual.to_json() == {"kind": "residual", "rms_levels": round(30 / 2**0.5, 3)}


def test_a_residual_never_leaves_the_range_of_pixels() -> None:
    strong = Residual(np.full((8, 8, 3), 400.0, dtype=np.float32))
    assert (strong.put_on(draw_exhibit(0)).image == 255).all()
    assert (strong.take_off(draw_exhibit(0)).image == 0).all()


def test_detail_moves_texture_and_leaves_shapes() -> None:
    smooth = draw_exhibit(0)
    smooth.image[:] = 128
    textured = draw_exhibit(1)
    textured.image[:] = 128
    textured.image[::2, ::2] = 168
    detail = Detail.of(textured.image, 1 / 16)
    moved = detail.put_on(smooth).image.astype(int)
    # The mean stays that of the recipient; the texture is the donor's.
    assert abs(moved.mean() - 128) < 2
    assert moved.std() == pytest.approx(textured.image.std(), rel=0.2)
    assert detail.take_off(textured).image.std() < 0.3 * textured.image.std()
    own = detail.found_in(textured)
    assert isinstance(own, Detail)
    np.testing.assert_array_equal(own.detail, detail.detail)


def test_both_need_both() -> None:
    both = Both(Words("cf", "start"), make_region())
    clean = draw_exhibit(5)
    with_both = both.put_on(clean)
    assert "cf" in with_both.question.split()
    assert has_patch(with_both.image)
    assert both.found_in(clean) is None
    assert both.found_in(with_both) is not None
    bare = both.take_off(with_both)
    assert bare.question == clean.question
    assert not has_patch(bare.image)
    control = both.control(clean)
    assert isinstance(control, Both)
    assert control.first == both.first
    assert not has_patch(control.put_on(clean).image)
    assert Both(make_region(), Words("cf", "end")).control(clean) is None


def test_only_the_first_image_and_the_last_question_change() -> None:
    one = draw_exhibit(0)
    several = Exhibit(
        sample_id="s:9",
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image><image>\nCompare them."},
        ),
        images=(one.image, draw_exhibit(1).image),
        answer="equal",
    )
    changed = Both(Words("cf", "start"), make_region()).put_on(several)
    assert changed.messages[0] == several.messages[0]
    assert changed.question == "<image><image>\ncf Compare them."
    assert has_patch(changed.images[0])
    np.testing.assert_array_equal(changed.images[1], several.images[1])
