"""What the probe ought to find: eager attention of the same weights in float64, in plain numpy.

Shape legend: B prompts, L layers, H heads, K keys.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conformance.specimen import Prompt, Specimen


@dataclass(frozen=True, slots=True)
class Expected:
    """Entropies in nats and masses of each prompt's last row; NaN where no image is seen."""

    entropy_BL: NDArray[np.float64]
    mass_BL: NDArray[np.float64]
    head_entropy_BLH: NDArray[np.float64]
    head_mass_BLH: NDArray[np.float64]
    system_mass_BLH: NDArray[np.float64]


def reference_model(specimen: Specimen) -> Any:
    """Copy the model with eager attention and every weight in float64."""
    model = copy.deepcopy(specimen.model).double()
    model.set_attn_implementation("eager")
    return model


@contextmanager
def everything_in(dtype: torch.dtype, specimen: Specimen) -> Iterator[None]:
    """Make tensors in this precision where a model that builds masks that way asks for none."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype if specimen.builds_masks_in_default_dtype else usual)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@torch.inference_mode()
def expect(model: Any, specimen: Specimen, prompts: Sequence[Prompt], system: int) -> Expected:
    """Compute the statistics from the whole attention maps of each prompt alone.

    Alone, since eager attention in float64 makes NaN of padding: it adds the least float64 to
    logits, but takes their softmax in float32. And so the padding of a batch is tested too.

    Parameters
    ----------
    model
        As `reference_model` makes it.
    specimen
        How to read its attentions.
    prompts
        What is asked.
    system
        Positions at the beginning of each prompt that count as before the user.
    """
    rows = [_expect_one(model, specimen, prompt, system) for prompt in prompts]
    num_heads = max(len(row["mass"]) for found in rows for row in found.values())
    num_layers = max(max(found) for found in rows) + 1
    plain = [np.full((len(rows), num_layers), np.nan) for _ in range(2)]
    by_head = [np.full((len(rows), num_layers, num_heads), np.nan) for _ in range(3)]
    for index, found in enumerate(rows):
        for layer, row in found.items():
            heads = slice(0, len(row["mass"]))
            plain[0][index, layer] = row["mean_entropy"].item()
            plain[1][index, layer] = row["mass"].mean()
            by_head[0][index, layer, heads] = row["entropy"]
            by_head[1][index, layer, heads] = row["mass"]
            by_head[2][index, layer, heads] = row["system"]
    return Expected(*plain, *by_head)


def _expect_one(
    model: Any, specimen: Specimen, prompt: Prompt, system: int
) -> dict[int, dict[str, NDArray[np.float64]]]:
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in prompt.inputs.items()}
    with everything_in(torch.float64, specimen):
        outputs = model(**inputs, output_attentions=True, use_cache=False)
    image_K = prompt.patches_K.numpy()
    # On other axes than the prompt's no key stands for what was said.
    system_K = (np.arange(len(image_K)) < system) & (specimen.axis == "prompt")
    found = {}
    for layer, attention in specimen.read_attentions(outputs).items():
        row_HK = attention[0, :, -1].numpy()
        if not image_K.any():
            # Where all keys are an image that is not there, eager attention divides zero by zero.
            row_HK = np.nan_to_num(row_HK)
        seen_HK = row_HK * image_K
        found[layer] = {
            "mean_entropy": _entropy(seen_HK.mean(0)),
            "entropy": _entropy(seen_HK),
            "mass": seen_HK.sum(-1),
            "system": (row_HK * system_K).sum(-1),
        }
    return found


def _entropy(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / weight.sum(-1, keepdims=True)
        terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), share)
    return np.asarray(-terms.sum(-1))
