"""What a tiny model of one architecture must bring so that the probe can be held against it.

Shape legend: S prompt positions, K positions of the axis that the decoder attends to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

VOCABULARY = 300
"""Token ids 3 to 189 are text in every specimen; special tokens are 200 and above."""
FIRST_TEXT_ID, LAST_TEXT_ID = 3, 189


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a prompt; the same seed and size give the same pixels."""

    seed: int
    is_large: bool = False
    """Where the architecture knows tiles or dynamic resolution, more image tokens."""


Part = Sequence[int] | Picture
"""A stretch of text token ids, or an image."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as the architecture's processor would hand it over: batch of one, no padding."""

    inputs: dict[str, Tensor]
    patches_K: Tensor
    """Booleans: where features of the image stand; separators and newlines are False."""


Axis = Literal["prompt", "prefixed", "image", "encoder"]
"""What the decoder attends to.

``prompt``: the positions of ``input_ids``, padded on the left in a batch; ``prefixed``: image
features, then those positions, with the padding between; ``image``: image features only, padded at
the end; ``encoder``: the positions of an encoder's sequence, padded on the left.
"""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A tiny random model, and how to speak to it."""

    model: Any
    encode: Callable[[Sequence[Part]], Prompt]
    read_attentions: Callable[[Any], dict[int, Tensor]] = field(
        default=lambda outputs: dict(enumerate(outputs.attentions))
    )
    """From outputs with ``output_attentions`` to (B, H, queries, K) maps by decoder layer."""
    takes_many_pictures: bool = True
    takes_no_picture: bool = True
    has_sizes: bool = False
    """Whether a large picture takes more tokens than a small one."""
    axis: Axis = "prompt"
    """What K is the axis of."""
    builds_masks_in_default_dtype: bool = False
    """Whether float64 needs torch's own default to be float64 too."""
    remark: str = ""
    """What a reader of the table should know, in a few words."""


ZOO: dict[str, Callable[[], Specimen]] = {}
"""How to build each architecture, by its name in transformers."""


def specimen(
    *names: str,
) -> Callable[[Callable[[str], Specimen]], Callable[[str], Specimen]]:
    """Enter a builder into the zoo under one or more architecture names."""

    def enter(build: Callable[[str], Specimen]) -> Callable[[str], Specimen]:
        for name in names:
            ZOO[name] = lambda name=name: build(name)  # type: ignore[misc]
        return build

    return enter


def draw_weights(model: Any, seed: int = 0) -> Any:
    """Give a model random weights under which attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    sharpened = ("q_proj", "k_proj", "qkv_proj", "q_b_proj", "kv_b_proj", "query_key_value")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim >= 2:
                is_sharpened = weight.ndim == 2 and any(part in name for part in sharpened)
                weight.copy_(noise * (0.2 if is_sharpened else 0.08))
            elif "norm" in name.lower() and name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.05 * noise)
    return model.eval()


def pixels(picture: Picture, *shape: int) -> Tensor:
    """Random pixel values of a shape, fixed by the picture."""
    generator = torch.Generator().manual_seed(1000 + picture.seed * 2 + picture.is_large)
    return torch.randn(*shape, generator=generator)
