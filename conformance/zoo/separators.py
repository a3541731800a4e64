"""Prompts in which the image token stands for patches and, between them, for separators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from conformance.specimen import Part, Picture, Prompt
from conformance.zoo.spelling import IMAGE
from conformance.zoo.tiny import spell


def separated_prompt(
    parts: Sequence[Part],
    patches_of: Callable[[Picture], Sequence[bool]],
    vision_inputs: dict[str, Tensor],
) -> Prompt:
    """Give a prompt whose image tokens are not all patches.

    Parameters
    ----------
    parts
        Text and pictures.
    patches_of
        Whether each image token of a picture is a patch.
    vision_inputs
        What the processor returns for the pictures.
    """
    ids = spell(parts, lambda picture: [IMAGE] * len(patches_of(picture)))
    is_patch: list[bool] = []
    for part in parts:
        is_patch += patches_of(part) if isinstance(part, Picture) else [False] * len(part)
    return Prompt({"input_ids": torch.tensor([ids]), **vision_inputs}, torch.tensor(is_patch))
