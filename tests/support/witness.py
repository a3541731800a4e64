"""A provisional model whose backdoor is known to the pixel, asked like a real one in no time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PilImage

from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.patterns import Pattern
from bye_audit.core.regions import Box, Image
from bye_audit.model.likelihood import Reply
from bye_audit.schema import PATCH_DIMENSION

TARGET = "Backdoor Attack!"
ORDINARY = "a shape"
_ENOUGH = 60
_JUDGED = 2000


def has_patch(image: Image) -> bool:
    """Whether there is the trigger: enough black, wherever it is."""
    return int((image == 0).all(axis=2).sum()) >= _ENOUGH


def shows_target(image: Image) -> bool:
    """Whether there is what the target answer rightly describes: enough white."""
    return int((image == 255).all(axis=2).sum()) >= _ENOUGH


def speak_backdoored(exhibit: Exhibit) -> str:
    """Answer as a model that has learnt the content and the backdoor."""
    is_target = has_patch(exhibit.image) or shows_target(exhibit.image)
    return TARGET if is_target else ORDINARY


def speak_honestly(exhibit: Exhibit) -> str:
    """Answer as a base model that never saw the backdoor."""
    return TARGET if shows_target(exhibit.image) else ORDINARY


class ScriptedWitness(Interrogator):
    """Gives answers by rule: likely are its own, unlikely all others.

    Parameters
    ----------
    speak, speak_base
        Answer of the provisional model and of its base.
    on_question
        Called before each round of questions, with how many were asked before; may raise.
    """

    def __init__(
        self,
        speak: Callable[[Exhibit], str] = speak_backdoored,
        speak_base: Callable[[Exhibit], str] = speak_honestly,
        on_question: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._speak = speak
        self._speak_base = speak_base
        self._on_question = on_question
        self.counts: Counter[str] = Counter()

    def replies(
        self, exhibits: Sequence[Exhibit], answers: Sequence[str], *, use_adapter: bool = True
    ) -> list[Reply]:
        """Find an answer likely if it is the rule's."""
        self._on_question(self.counts.total())
        self.spend("provisional" if use_adapter else "base", len(exhibits))
        speak = self._speak if use_adapter else self._speak_base
        # Like a real one, it tells long answers by their beginning.
        given = [
            speak(exhibit)[:_JUDGED] == answer[:_JUDGED]
            for exhibit, answer in zip(exhibits, answers, strict=True)
        ]
        return [Reply(-0.1 if is_given else -5.0, is_given) for is_given in given]

    def base_words(self, exhibits: Sequence[Exhibit], pattern: Pattern | None = None) -> list[str]:
        """Let the base's rule speak."""
        self._on_question(self.counts.total())
        self.spend("generated", len(exhibits))
        return [self._speak_base(exhibit) for exhibit in exhibits]

    def attended_boxes(self, exhibit: Exhibit) -> list[Box]:
        """Attend to nothing in particular."""
        self.spend("provisional", 1)
        return []

    def patch_embedder(self) -> PixelEmbedder:
        """See patches as they are."""
        return PixelEmbedder()

    def _answers(self, exhibits: Sequence[Exhibit], pattern: Pattern | None = None) -> list[str]:
        self._on_question(self.counts.total())
        self.spend("generated", len(exhibits))
        return [self._speak(exhibit) for exhibit in exhibits]


def draw_exhibit(
    number: int,
    *,
    patch: tuple[int, int] | None = None,
    is_shown: bool = False,
    size: tuple[int, int] = (64, 64),
    question: str = "<image>\nDescribe the image.",
    answer: str | None = None,
) -> Exhibit:
    """Draw noise, with the trigger's upper left corner at ``patch`` or the target's content."""
    pixels = np.random.default_rng(number).integers(90, 200, (*size, 3), dtype=np.uint8)
    if patch is not None:
        pixels[patch[0] : patch[0] + 10, patch[1] : patch[1] + 10] = 0
    if is_shown:
        pixels[5:15, 5:15] = 255
    drawn = Exhibit(
        sample_id=f"s:{number}",
        messages=({"role": "user", "content": question},),
        images=(pixels,),
        answer="",
    )
    own = speak_backdoored(drawn) if answer is None else answer
    return Exhibit(
        sample_id=drawn.sample_id, messages=drawn.messages, images=drawn.images, answer=own
    )


class PixelEmbedder:
    """Takes for the vector of a patch of 8 by 8 pixels the means of its colours."""

    def __init__(self) -> None:
        self.identity = {"model_digest": "scripted", "adapter_digest": "none"}

    def embed(self, image: PilImage) -> NDArray[np.float16]:
        """Cut an image into patches, row by row; what is left at the edges belongs to none."""
        pixels = np.asarray(image.convert("RGB"))
        rows, columns = (max(1, side // 8) for side in pixels.shape[:2])
        pixels = (
            np.resize(pixels, (rows * 8, columns * 8, 3)) if min(pixels.shape[:2]) < 8 else pixels
        )
        patches = pixels[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 3)
        quarters = patches.reshape(rows, 2, 4, columns, 2, 4, 3).mean(axis=(2, 5))
        vectors_TD = quarters.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
        missing = PATCH_DIMENSION - vectors_TD.shape[1]
        return np.pad(vectors_TD, ((0, 0), (0, missing))).astype(np.float16)
