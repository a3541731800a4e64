from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bye_audit.model.image_cache import RememberingImageProcessor
from bye_audit.model.loading import VisionLanguageModel, load_model


class Counting:
    """The image processor of a tiny model, with a counter."""

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.calls = 0

    def __call__(self, images: object, **options: object) -> object:
        self.calls += 1
        return self.inner(images, **options)  # type: ignore[operator]


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_same_image_is_processed_once_and_another_anew(vlm: VisionLanguageModel) -> None:
    counting = Counting(vlm.processor.image_processor)
    processor = RememberingImageProcessor(counting)
    first, other = picture(0), picture(1)
    made = processor([first], return_tensors="pt")["pixel_values"]
    again = processor([first], return_tensors="pt")
    assert counting.calls == 1
    assert again["pixel_values"] is made
    again.pop("pixel_values")
    assert processor([first], return_tensors="pt")["pixel_values"] is made
    assert not torch.equal(processor([other], return_tensors="pt")["pixel_values"], made)
    assert counting.calls == 2


def test_other_options_or_other_objects_of_the_same_content_are_not_confused(
    vlm: VisionLanguageModel,
) -> None:
    counting = Counting(vlm.processor.image_processor)
    processor = RememberingImageProcessor(counting)
    image = picture(0)
    processor([image], return_tensors="pt")
    raw = processor([image], return_tensors="pt", do_normalize=False)["pixel_values"]
    assert not torch.equal(raw, processor([image], return_tensors="pt")["pixel_values"])
    processor([image.copy()], return_tensors="pt")
    assert counting.calls == 3


def test_only_a_few_are_remembered_and_none_travels(vlm: VisionLanguageModel) -> None:
    counting = Counting(vlm.processor.image_processor)
    processor = RememberingImageProcessor(counting)
    images = [picture(seed) for seed in range(6)]
    for image in images:
        processor([image], return_tensors="pt")
    processor([images[0]], return_tensors="pt")
    assert counting.calls == 7
    copy = pickle.loads(pickle.dumps(vlm.encoder.processor.image_processor))  # noqa: S301
    fresh = copy([images[0]], return_tensors="pt")["pixel_values"]
    kept = processor([images[0]], return_tensors="pt")["pixel_values"]
    assert torch.equal(fresh, kept)
