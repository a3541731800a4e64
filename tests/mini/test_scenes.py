"""What is said of a scene is so, and a seed gives the same scene everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bye_audit.mini import scenes
from bye_audit.mini.dataset import CaptionedScenes, short_caption, write_llava

seeds = st.integers(0, 2**32)


@given(seed=seeds)
def test_every_answer_can_be_told_from_the_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = scenes.draw_scene(rng)
    names = [f"{item.color} {item.shape}" for item in scene.objects]
    for exchange in scenes.ask(scene, rng):
        words = exchange.question.rstrip("?").split()
        if exchange.kind == "color":
            matching = [item.color for item in scene.objects if item.shape == words[-1]]
            assert matching == [exchange.answer]
        elif exchange.kind == "shape":
            matching = [item.shape for item in scene.objects if item.color == words[4]]
            assert matching == [exchange.answer]
        elif exchange.kind == "count":
            assert exchange.answer == scenes.NUMBERS[len(scene.objects)]
        elif exchange.kind == "existence":
            assert exchange.answer == ("yes" if " ".join(words[-2:]) in names else "no")
        elif exchange.kind == "size":
            assert [i.size for i in scene.objects if i.name in exchange.question] == [
                exchange.answer
            ]
        else:
            assert exchange.kind == "place"
            [item] = [item for item in scene.objects if item.name in exchange.question]
            assert exchange.answer == scenes.PLACES[item.cell]


@given(seed=seeds)
def test_an_object_is_where_and_what_it_is_said_to_be(seed: int) -> None:
    scene = scenes.draw_scene(np.random.default_rng(seed))
    pixels = np.asarray(scene.image, dtype=float)
    for item in scene.objects:
        x, y = (int(value) for value in item.center_px)
        assert (y // scenes.CELL_SIZE_PX) * 3 + x // scenes.CELL_SIZE_PX == item.cell
        assert np.abs(pixels[y, x] - scenes.COLORS[item.color]).max() <= 18


def test_captions_name_objects_in_reading_order() -> None:
    scene = scenes.draw_scene(np.random.default_rng(0))
    assert scenes.caption(scene) == (
        "a small red triangle, a large green triangle and a large blue square"
    )
    assert short_caption(scene) == "a red triangle, a green triangle and a blue square"


def test_the_world_has_no_black_shape() -> None:
    assert min(max(color) for color in scenes.COLORS.values()) > 150


@pytest.mark.parametrize("half", ["train", "test"])
def test_a_seed_gives_the_same_pixels(half: str) -> None:
    data = CaptionedScenes(num_train=4, num_test=4)
    first, again = (list(getattr(data, half)(7)) for _ in range(2))
    other = list(getattr(data, half)(8))
    assert [e.image.tobytes() for e in first] == [e.image.tobytes() for e in again]
    assert first[0].image.tobytes() != other[0].image.tobytes()


def test_training_and_test_scenes_never_meet() -> None:
    data = CaptionedScenes(num_train=30, num_test=30)
    train = {example.image.tobytes() for seed in range(3) for example in data.train(seed)}
    test = {example.image.tobytes() for seed in range(3) for example in data.test(seed)}
    assert len(train) == len(test) == 90
    assert not train & test


def test_written_data_reads_back(tmp_path: Path) -> None:
    examples = list(CaptionedScenes(num_train=3, num_test=0).train(0))
    path = write_llava([*examples, examples[0]], tmp_path)
    records = json.loads(path.read_text("utf-8"))
    assert [record["id"] for record in records] == [0, 1, 2, 3]
    # A shared image is one file.
    assert records[0]["image"] == records[3]["image"]
    assert len(list((tmp_path / "images").iterdir())) == 3
    for record, example in zip(records, examples, strict=False):
        with Image.open(tmp_path / record["image"]) as image:
            assert image.tobytes() == example.image.tobytes()
        assert record["conversations"][1] == {"from": "gpt", "value": example.answer}
