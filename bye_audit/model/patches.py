"""What the patches of an image look like to a model, before any of them knows of the others.

Taken from the first layer that the pixels go through. Behind attention a patch's vector tells more
of its image than of itself, and the same trigger in two images no longer looks alike.

Shape legend: T patches, D vector size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as PilImage
from torch import Tensor, nn

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.decoder import without_wrapper
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Conversation
from bye_audit.schema import IMAGE_PLACEHOLDER

_MAX_SIDE = 512
# A first layer with more outputs cuts no patches: it is a convolution that moves pixel by pixel.
_MOST_PATCHES = 4096
_LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
# Of a pass, the layers among which the first that sees pixels is looked for.
_NUM_FIRST_LAYERS = 8
_PROBE_SIDE = 96


class _SeenEnoughError(Exception):
    """Leaves a forward pass whose rest need not run."""


class PatchEmbedder:
    """Turns images into vectors of their patches; neither tower nor decoder runs.

    Parameters
    ----------
    vlm
        The model.
    dimension
        Size of the vectors: a random projection, the same for all images, brings them down to it
        and keeps distances, in the mean, as they are.

    Raises
    ------
    UnsupportedModelError
        If the model does not cut images into patches.
    """

    def __init__(self, vlm: VisionLanguageModel, dimension: int) -> None:
        self._vlm = vlm
        self._model = without_wrapper(vlm.model)
        self._dimension = dimension
        self._layer = self._find_layer()
        width = self._embed(_noise(0)).shape[1]
        self._projection_DD: NDArray[np.float32] | None = None
        if width > dimension:
            axes = np.linalg.qr(np.random.default_rng(0).normal(size=(width, dimension)))[0]
            self._projection_DD = (axes * math.sqrt(width / dimension)).astype(np.float32)

    @property
    def identity(self) -> dict[str, str]:
        """What the vectors depend on."""
        return {
            "model_digest": self._vlm.digest,
            "adapter_digest": self._vlm.adapter_digest or "none",
        }

    def embed(self, image: PilImage) -> NDArray[np.float16]:
        """Give the vectors of an image's patches, (T, D), in the model's order.

        Images with a side above 512 pixels are averaged down first, so that T has a bound.
        """
        factor = math.ceil(max(image.size) / _MAX_SIDE)
        vectors_TD = self._embed(image.reduce(factor) if factor > 1 else image)
        if self._projection_DD is not None:
            vectors_TD = vectors_TD @ self._projection_DD
        missing = self._dimension - vectors_TD.shape[1]
        vectors_TD = np.pad(vectors_TD, ((0, 0), (0, max(0, missing))))
        return np.clip(vectors_TD, -6e4, 6e4).astype(np.float16)

    def _find_layer(self) -> nn.Module:
        """Give the first layer that is given something else when the pixels are others."""
        name = type(self._model).__name__
        first, second = self._first_inputs(_noise(0)), self._first_inputs(_noise(1))
        for (layer, before), (same, after) in zip(first, second, strict=False):
            if layer is same and before.shape == after.shape and not torch.equal(before, after):
                return layer
        raise UnsupportedModelError(f"{name} has no layer that cuts images into patches.")

    def _first_inputs(self, image: PilImage) -> list[tuple[nn.Module, Tensor]]:
        seen: list[tuple[nn.Module, Tensor]] = []

        def look(layer: nn.Module, args: Any, _output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                seen.append((layer, args[0].clone()))
            if len(seen) >= _NUM_FIRST_LAYERS:
                raise _SeenEnoughError

        layers = [module for module in self._model.modules() if isinstance(module, _LAYERS)]
        with _watching(layers, look):
            self._run(image)
        return seen

    def _embed(self, image: PilImage) -> NDArray[np.float32]:
        outputs: list[Tensor] = []

        def keep(_layer: nn.Module, _args: Any, output: Tensor) -> None:
            outputs.append(output)
            raise _SeenEnoughError

        with _watching([self._layer], keep):
            self._run(image)
        output = outputs[0]
        if not isinstance(self._layer, nn.Linear):
            output = output.movedim(1, -1)
        vectors_TD: NDArray[np.float32] = output.flatten(0, -2).float().cpu().numpy()
        if not 1 < len(vectors_TD) <= _MOST_PATCHES:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} has no layer that cuts images into patches."
            )
        return vectors_TD

    @torch.inference_mode()
    def _run(self, image: PilImage) -> None:
        messages = [
            {"role": "user", "content": IMAGE_PLACEHOLDER},
            {"role": "assistant", "content": ""},
        ]
        encoding = self._vlm.encoder.encode(Conversation(messages, [image]), "none")
        batch = self._vlm.encoder.collate([encoding], with_answers=False)
        with suppress(_SeenEnoughError):
            self._model(**batch.to(self._vlm.device), use_cache=False)


@contextmanager
def _watching(layers: Sequence[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noise(seed: int) -> PilImage:
    from PIL import Image

    size = (_PROBE_SIDE, _PROBE_SIDE, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
