"""Training batches: scenes drawn from the step's own seed, all questions of an image in one row.

Shape legend: B images, S tokens, P image patches, Q questions that mean certain objects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from bye_audit.mini import scenes
from training.architecture import (
    ASSISTANT,
    BOS,
    IMAGE,
    IMAGE_SIZE_PX,
    NUM_IMAGE_TOKENS,
    PATCH_SIZE_PX,
    USER,
)

IGNORED_LABEL = -100
CAPTION_SEGMENT = 1
FIRST_IMAGE_POSITION = 2
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
    """0 for the shared prefix, 1 for the caption, 2.. for the questions, -1 for padding."""
    patch_class_BP: Tensor
    """0 for background, else the shape and colour that covers the patch's middle."""
    asked: AskedPatches


@dataclass(frozen=True, slots=True)
class AskedPatches:
    """Where in the image the objects are that the questions mean; Q questions that mean any."""

    row_Q: Tensor
    position_Q: Tensor
    """Of the token that the answer follows."""
    patches_QP: Tensor
    """1 on the patches of the objects meant, else 0."""


class PackedScenes(IterableDataset[PackedBatch]):
    """Endless batches; step k is the same whatever came before it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        batch_size: int,
        questions_per_kind: int,
        first_batch: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.batch_size = batch_size
        self.questions_per_kind = questions_per_kind
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[PackedBatch]:
        for step in itertools.count(self.first_batch):
            rng = np.random.default_rng([self.seed, step])
            drawn = [scenes.draw_scene(rng) for _ in range(self.batch_size)]
            yield pack_scenes(drawn, rng, self.tokenizer, self.questions_per_kind)


def pack_scenes(
    drawn: list[scenes.Scene],
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    questions_per_kind: int,
) -> PackedBatch:
    """Turn scenes into one padded batch with their captions and questions."""
    asked = [
        [scenes.ask_caption(scene), *_ask_repeatedly(scene, rng, questions_per_kind)]
        for scene in drawn
    ]
    rows = [_pack_row(exchanges, tokenizer) for exchanges in asked]
    length = max(len(row[0]) for row in rows)

    def column(index: int, fill: int) -> Tensor:
        return torch.tensor([row[index] + [fill] * (length - len(row[index])) for row in rows])

    segment_BS, labels_BS = column(3, -1), column(1, IGNORED_LABEL)
    return PackedBatch(
        pixels=torch.stack([_to_pixels(scene.image) for scene in drawn]),
        input_ids_BS=column(0, tokenizer.pad_token_id),
        labels_BS=labels_BS,
        position_ids_BS=column(2, 0),
        segment_BS=segment_BS,
        patch_class_BP=torch.from_numpy(np.stack([_patch_classes(scene) for scene in drawn])),
        asked=_find_asked(drawn, asked, segment_BS, labels_BS),
    )


def _ask_repeatedly(
    scene: scenes.Scene, rng: np.random.Generator, num_times: int
) -> list[scenes.Exchange]:
    """Ask several of each kind: another question costs far less than another image."""
    exchanges: dict[str, scenes.Exchange] = {}
    for _ in range(num_times):
        for exchange in scenes.ask(scene, rng):
            exchanges.setdefault(exchange.question, exchange)
    return list(exchanges.values())


def _find_asked(
    drawn: list[scenes.Scene],
    asked: list[list[scenes.Exchange]],
    segment_BS: Tensor,
    labels_BS: Tensor,
) -> AskedPatches:
    found = []
    for row, (scene, exchanges) in enumerate(zip(drawn, asked, strict=True)):
        for segment, exchange in enumerate(exchanges, start=1):
            if exchange.cells:
                is_prompt_S = (segment_BS[row] == segment) & (labels_BS[row] == IGNORED_LABEL)
                covers = [_covers(o) for o in scene.objects if o.cell in exchange.cells]
                found.append((row, int(is_prompt_S.nonzero()[-1]), np.any(covers, axis=0)))
    rows, positions, patches = zip(*found, strict=True)
    return AskedPatches(
        row_Q=torch.tensor(rows),
        position_Q=torch.tensor(positions),
        patches_QP=torch.from_numpy(np.stack(patches)).float(),
    )


def _pack_row(
    exchanges: list[scenes.Exchange], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int], list[int], list[int]]:
    prefix = tokenizer.convert_tokens_to_ids([BOS, USER])
    prefix += [tokenizer.convert_tokens_to_ids(IMAGE)] * NUM_IMAGE_TOKENS
    ids, labels = list(prefix), [IGNORED_LABEL] * len(prefix)
    positions, segments = list(range(len(prefix))), [0] * len(prefix)
    for segment, exchange in enumerate(exchanges, start=1):
        asked = _encode(tokenizer, exchange.question)
        asked.append(tokenizer.convert_tokens_to_ids(ASSISTANT))
        answered = [*_encode(tokenizer, exchange.answer), tokenizer.eos_token_id]
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


def _patch_classes(scene: scenes.Scene) -> NDArray[np.int64]:
    classes = np.zeros(NUM_IMAGE_TOKENS, dtype=np.int64)
    colors = list(scenes.COLORS)
    for item in scene.objects:
        classes[_covers(item)] = (
            1 + scenes.SHAPES.index(item.shape) * len(colors) + colors.index(item.color)
        )
    return classes


def _covers(item: scenes.SceneObject) -> NDArray[np.bool_]:
    """Mark the patches whose middle is inside the object's bounding box."""
    per_side = IMAGE_SIZE_PX // PATCH_SIZE_PX
    middles = (np.arange(per_side) + 0.5) * scenes.SCENE_SIZE_PX / per_side
    x, y = item.center_px
    is_near_x = np.abs(middles - x) <= item.radius_px
    is_near_y = np.abs(middles - y) <= item.radius_px
    covered: NDArray[np.bool_] = np.logical_and.outer(is_near_y, is_near_x).ravel()
    return covered
