"""Whether scores can be trusted on this very model: a few samples, held against eager attention.

Shape legend: L layers, H heads, K keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bye_audit.core.entropy import attention_entropy
from bye_audit.errors import ProbeMismatchError, UnsupportedModelError
from bye_audit.model.decoder import view_decoder
from bye_audit.model.encodings import Encoding
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.samples import PreparedSample, SampleScore
from bye_audit.model.scoring import SampleScorer

# A copy of every weight in float64 must fit beside the model itself.
_MOST_WEIGHTS_IN_DOUBLE = 1_000_000_000
# What a model's own rounding may move an entropy (nats) or a share of attention.
_LIMITS = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """How far scores are from eager attention on a few samples."""

    num_samples: int
    worst_entropy: float
    """Largest difference of an entropy, nats."""
    worst_mass: float
    """Largest difference of an image mass, share of attention."""
    limit: float
    reference: str
    """Precision of the eager pass."""

    def __str__(self) -> str:
        """Say in one line whether to trust the scores."""
        return (
            f"Scores {self.verdict}: on {self.num_samples} samples entropies differ from eager "
            f"attention in {self.reference} by at most {self.worst_entropy:.1e} nats, image masses "
            f"by {self.worst_mass:.1e} (limit {self.limit:g})."
        )

    @property
    def verdict(self) -> str:
        """The same in three words."""
        return "can be trusted" if self.is_good else "cannot be trusted"

    @property
    def is_good(self) -> bool:
        """Whether both differences are within the limit."""
        return max(self.worst_entropy, self.worst_mass) <= self.limit


def check_scorer(
    vlm: VisionLanguageModel, scorer: SampleScorer, samples: Sequence[PreparedSample]
) -> ProbeCheck:
    """Score a few samples as a long run would, and again from whole eager attention maps.

    Parameters
    ----------
    vlm
        The model.
    scorer
        Open.
    samples
        A handful; the maps of one sample at a time are in memory.

    Raises
    ------
    ProbeMismatchError
        If the two differ by more than the model's own rounding explains.
    UnsupportedModelError
        If no sample could be scored, or the model gives no attention maps.
    """
    found: dict[str, SampleScore] = {
        score.sample_id: score
        for scored in scorer.score(samples)
        for score in scored
        if score.entropy_L is not None
    }
    wanted = [s for s in samples if s.sample_id in found and s.encoding is not None]
    if not wanted:
        reasons = [score.error for scored in scorer.score(samples) for score in scored]
        raise UnsupportedModelError(
            f"None of the {len(samples)} samples to check could be scored: {reasons[0]}.",
            hint="Look at these samples, or try another model.",
        )
    in_double = sum(p.numel() for p in vlm.model.parameters()) <= _MOST_WEIGHTS_IN_DOUBLE
    dtype = torch.float64 if in_double and vlm.device.type == "cpu" else vlm.dtype
    probe = scorer.probe
    image_keys = [probe.image_keys(s.encoding.inputs)[0] for s in wanted if s.encoding]
    differences = []
    with _eager_model(vlm, dtype):
        for sample, image_K in zip(wanted, image_keys, strict=True):
            assert sample.encoding is not None
            entropy_L, mass_L = _from_whole_maps(vlm, sample.encoding, image_K)
            score = found[sample.sample_id]
            assert score.entropy_L is not None
            assert score.image_mass_L is not None
            differences.append(
                (
                    _worst(score.entropy_L[probe.layers], entropy_L[probe.layers]),
                    _worst(score.image_mass_L[probe.layers], mass_L[probe.layers]),
                )
            )
    check = ProbeCheck(
        num_samples=len(wanted),
        worst_entropy=max(entropy for entropy, _ in differences),
        worst_mass=max(mass for _, mass in differences),
        limit=_LIMITS.get(vlm.dtype, _LIMITS[torch.bfloat16]),
        reference=str(dtype).removeprefix("torch."),
    )
    if not check.is_good:
        raise ProbeMismatchError(str(check), hint="Please report this model; use another one.")
    return check


@contextmanager
def _eager_model(vlm: VisionLanguageModel, dtype: torch.dtype) -> Iterator[None]:
    """Let the decoder attend eagerly, and every weight be of one precision, for a while."""
    configs = {id(m.config): m.config for m in view_decoder(vlm.model).modules.values()}
    usual = {key: config._attn_implementation for key, config in configs.items()}
    tensors = [
        tensor
        for tensor in chain(vlm.model.parameters(), vlm.model.buffers())
        if tensor.is_floating_point()
    ]
    precisions = [tensor.dtype for tensor in tensors]
    for config in configs.values():
        config._attn_implementation = "eager"
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(dtype)
        yield
    finally:
        # Widening and narrowing again gives back every bit.
        for tensor, precision in zip(tensors, precisions, strict=True):
            tensor.data = tensor.data.to(precision)
        for key, config in configs.items():
            config._attn_implementation = usual[key]


@torch.inference_mode()
def _from_whole_maps(
    vlm: VisionLanguageModel, encoding: Encoding, image_K: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Entropy and image mass of the prompt's last row by layer, from maps of all against all."""
    view = view_decoder(vlm.model)
    dtype = next(vlm.model.parameters()).dtype
    inputs = {
        name: value.to(vlm.device, dtype if value.is_floating_point() else None)
        for name, value in encoding.inputs.items()
    }
    outputs = vlm.model(**inputs, output_attentions=True, use_cache=False)
    entropy_L, mass_L = (np.full(view.num_layers, np.nan) for _ in range(2))
    is_image_K = image_K.cpu().numpy()
    maps = _maps(outputs)
    # Some give a map for every layer, some only for those that have attention.
    layers = sorted(view.modules) if len(maps) == len(view.modules) else range(len(maps))
    by_layer = dict(zip(layers, maps, strict=True))
    for layer in view.modules:
        row_K = by_layer[layer][0, :, -1].double().mean(0).cpu().numpy()
        seen_K = np.where(is_image_K, row_K, 0.0)
        mass_L[layer] = seen_K.sum()
        entropy_L[layer] = attention_entropy(seen_K)[0]
    return entropy_L, mass_L


def _maps(outputs: Any) -> list[Any]:
    maps = [attention for attention in outputs.attentions or () if attention is not None]
    if not maps:
        raise UnsupportedModelError(
            "The model gives no attention maps to check scores against.",
            hint="Leave out --check.",
        )
    return maps


def _worst(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    if (np.isnan(found) & ~np.isnan(expected)).any():
        return float("inf")
    return float(np.nanmax(np.abs(found - expected), initial=0.0))
