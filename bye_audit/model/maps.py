"""Pictures of what a model looks at: attention over the image, token by token.

Shape legend: L layers, T image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bye_audit.model.attention import AttentionProbe
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Conversation
from bye_audit.model.spans import image_grid


@dataclass(frozen=True, slots=True)
class ImageAttention:
    """Where one sample's first answer token looks: shares of the image's attention."""

    attention_LT: NDArray[np.float32]
    grid: tuple[int, int] | None
    """Rows and columns of the image tokens, row-major; None where they form no single grid."""


def image_attention(
    vlm: VisionLanguageModel, conversations: Sequence[Conversation], layers: Sequence[int]
) -> list[ImageAttention]:
    """Head-averaged attention maps over the image, for pictures of what a model looks at.

    Parameters
    ----------
    vlm
        The model, with its adapter.
    conversations
        Each with at least one image in its prompt.
    layers
        Decoder layers, rising.

    Returns
    -------
    list[ImageAttention]
        In the order of ``conversations``; each map sums to 1 in each layer.
    """
    found = []
    with AttentionProbe(vlm.model, layers) as probe:
        for conversation in conversations:
            encoding = vlm.encoder.encode(conversation, "none")
            batch = vlm.encoder.collate([encoding], with_answers=False)
            maps_LT = probe.read_maps(batch.inputs)[0]
            grid = image_grid(vlm.base, encoding.inputs, maps_LT.shape[1])
            found.append(ImageAttention(maps_LT, grid))
    return found
