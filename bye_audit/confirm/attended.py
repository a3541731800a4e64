"""Parts of an image that hold most of the attention of the first answer token.

Shapes: L = decoder layers, T = image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.regions import Box

if TYPE_CHECKING:
    from bye_audit.confirm.exhibits import Exhibit
    from bye_audit.model.loading import VisionLanguageModel

EXPLAINED_SHARE = 0.5
"""Attention that a part has to hold to explain where a layer looks."""
MAX_SIDE = 1 / 4
"""Largest part, as a share of the image's side: what needs more is no collapse."""


def attended_boxes(
    vlm: VisionLanguageModel, exhibit: Exhibit, layers: Sequence[int] | None = None
) -> list[Box]:
    """Grow a square around each layer's most attended token until it explains the attention.

    Parameters
    ----------
    vlm
        The provisional model.
    exhibit
        The sample.
    layers
        Decoder layers to look at; None: all.

    Returns
    -------
    list of Box
        Without doubles, the smallest first; none for layers whose attention is spread out, and
        none for images whose tokens form no single grid.
    """
    from bye_audit.model.maps import image_attention

    chosen = list(range(vlm.num_layers)) if layers is None else list(layers)
    [found] = image_attention(vlm, [exhibit.conversation(exhibit.answer)], chosen)
    if found.grid is None:
        return []
    boxes = (grow_box(map_T.reshape(found.grid)) for map_T in found.attention_LT)
    return sorted({box for box in boxes if box is not None}, key=lambda box: box.area)


def grow_box(attention_map: NDArray[np.floating]) -> Box | None:
    """Grow a square around the peak of a map that sums to 1, a ring of tokens at a time.

    Returns
    -------
    Box or None
        None where even the largest square holds too little.
    """
    rows, columns = attention_map.shape
    row, column = np.unravel_index(int(attention_map.argmax()), attention_map.shape)
    for reach in range(int(MAX_SIDE * min(rows, columns)) // 2 + 1):
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        bottom, right = min(rows, int(row) + reach + 1), min(columns, int(column) + reach + 1)
        if attention_map[top:bottom, left:right].sum() >= EXPLAINED_SHARE:
            return Box(top / rows, left / columns, (bottom - top) / rows, (right - left) / columns)
    return None
