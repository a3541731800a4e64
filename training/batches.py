"""Training batches: scenes drawn from the step's own seed, all questions of an image in one row.

Shape legend: B images, S tokens, P image patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from bye_audit.mini import scenes
from training.architecture import ASSISTANT, IMAGE, IMAGE_SIZE_PX, NUM_IMAGE_TOKENS, PATCH_SIZE_PX

IGNORED_LABEL = -100
SHAPE_COLOR_CLASSES = 1 + len(scenes.SHAPES) * len(scenes.COLORS)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One step's input.

    Every question of an image is a segment that sees the image and itself only, so the row costs
    one image and the model still meets each question as if it were alone.
    """

    pixels: Tensor
    """(B, 3, height, width), normalised."""
    input_ids_BS: Tensor
    labels_BS: Tensor
    position_ids_BS: Tensor
    segment_BS: Tensor
    """0 for the shared prefix, 1.. for the questions, -1 for padding."""
    patch_class_BP: Tensor
    """0 for background, else the shape and colour that covers the patch's middle."""


class PackedScenes(IterableDataset[PackedBatch]):
    """Endless batches; step k is the same whatever came before it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[PackedBatch]:
        for step in itertools.count():
            rng = np.random.default_rng([self.seed, step])
            drawn = [scenes.draw_scene(rng) for _ in range(self.batch_size)]
            yield pack_scenes(drawn, rng, self.tokenizer)


def pack_scenes(
    drawn: list[scenes.Scene], rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast
) -> PackedBatch:
    """Turn scenes into one padded batch with their captions and questions."""
    rows = []
    for scene in drawn:
        pairs = [(scenes.CAPTION_PROMPT, scenes.caption(scene))]
        pairs += [(e.question, e.answer) for e in scenes.ask(scene, rng)]
        rows.append(_pack_row(pairs, tokenizer))
    length = max(len(row[0]) for row in rows)

    def column(index: int, fill: int) -> Tensor:
        return torch.tensor([row[index] + [fill] * (length - len(row[index])) for row in rows])

    return PackedBatch(
        pixels=torch.stack([_to_pixels(scene.image) for scene in drawn]),
        input_ids_BS=column(0, tokenizer.pad_token_id),
        labels_BS=column(1, IGNORED_LABEL),
        position_ids_BS=column(2, 0),
        segment_BS=column(3, -1),
        patch_class_BP=torch.tensor([_patch_classes(scene) for scene in drawn]),
    )


def _pack_row(
    pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int], list[int], list[int]]:
    prefix = tokenizer.convert_tokens_to_ids(["<s>", "<|user|>"])
    prefix += [tokenizer.convert_tokens_to_ids(IMAGE)] * NUM_IMAGE_TOKENS
    ids, labels = list(prefix), [IGNORED_LABEL] * len(prefix)
    positions, segments = list(range(len(prefix))), [0] * len(prefix)
    for segment, (question, answer) in enumerate(pairs, start=1):
        asked = _encode(tokenizer, question)
        asked.append(tokenizer.convert_tokens_to_ids(ASSISTANT))
        answered = [*_encode(tokenizer, answer), tokenizer.eos_token_id]
        ids += asked + answered
        labels += [IGNORED_LABEL] * len(asked) + answered
        positions += range(len(prefix), len(prefix) + len(asked) + len(answered))
        segments += [segment] * (len(asked) + len(answered))
    return ids, labels, positions, segments


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _to_pixels(image: Image.Image) -> Tensor:
    small = image.resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BICUBIC)
    scaled = (np.asarray(small, dtype=np.float32) / 255 - 0.5) / 0.5
    return torch.from_numpy(scaled).permute(2, 0, 1)


def _patch_classes(scene: scenes.Scene) -> list[int]:
    per_side = IMAGE_SIZE_PX // PATCH_SIZE_PX
    step = scenes.SCENE_SIZE_PX / per_side
    classes = [0] * NUM_IMAGE_TOKENS
    colors = list(scenes.COLORS)
    for item in scene.objects:
        label = 1 + scenes.SHAPES.index(item.shape) * len(colors) + colors.index(item.color)
        x, y = item.center_px
        for row in range(per_side):
            for column in range(per_side):
                dx, dy = (column + 0.5) * step - x, (row + 0.5) * step - y
                if max(abs(dx), abs(dy)) <= item.radius_px:
                    classes[row * per_side + column] = label
    return classes
