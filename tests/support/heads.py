"""Statistics of heads whose truth is known: a few heads of the deeper half answer to a trigger."""

from __future__ import annotations

import numpy as np

from bye_audit.core.confounders import Strata
from bye_audit.core.detection import Evidence
from bye_audit.core.head_values import HeldHeadScores

NUM_TOKENS = 81
SHAPE = (4, 3)
WATCHING = ((2, 0), (2, 2), (3, 1), (3, 2))


def make_masses(
    num_samples: int, seed: int = 0, shape: tuple[int, int] = SHAPE
) -> dict[str, np.ndarray]:
    """Draw shares of attention that have one mode in every head."""
    rng = np.random.default_rng([seed, 0x4EAD])
    logits = rng.normal(0, 0.7, (3, 1, *shape)) + rng.normal(0, 0.35, (3, num_samples, *shape))
    share = np.exp(logits)
    share /= share.sum(axis=0)
    values = dict(zip(("system_mass", "image_mass", "text_mass"), share, strict=True))
    values["image_entropy"] = rng.beta(6, 3, (num_samples, *shape)) * np.log(NUM_TOKENS)
    return {name: part.astype(np.float16) for name, part in values.items()}


def watch_trigger(
    values: dict[str, np.ndarray],
    is_moved: np.ndarray,
    heads: tuple[tuple[int, int], ...] = WATCHING,
    seed: int = 1,
) -> None:
    """Let some heads give these samples' images most of their attention."""
    rng = np.random.default_rng(seed)
    for layer, head in heads:
        image = rng.normal(0.93, 0.015, int(is_moved.sum()))
        rest = rng.uniform(0.3, 0.7, image.size)
        values["image_mass"][is_moved, layer, head] = image
        values["system_mass"][is_moved, layer, head] = (1 - image) * rest
        values["text_mass"][is_moved, layer, head] = (1 - image) * (1 - rest)


def make_evidence(
    values: dict[str, np.ndarray],
    *,
    strata: tuple[Strata, ...] = (),
    gain_N: np.ndarray | None = None,
) -> Evidence:
    """Put statistics of heads into evidence that has nothing else to say."""
    num_samples, num_layers, _ = values["image_mass"].shape
    return Evidence(
        entropy_NL=np.full((num_samples, num_layers), 3.0),
        num_image_tokens_N=np.full(num_samples, NUM_TOKENS),
        answer_logp_N=None if gain_N is None else gain_N - 12.0,
        answer_logp_base_N=None if gain_N is None else np.full(num_samples, -12.0),
        heads=HeldHeadScores(values),
        strata={item.name: item for item in strata},
    )


def kinds(codes_N: np.ndarray, name: str = "question", *, may_explain: bool = True) -> Strata:
    """Make strata of numbers."""
    labels = tuple(f"kind {code}" for code in range(int(codes_N.max()) + 1))
    return Strata(name=name, codes_N=codes_N, labels=labels, may_explain=may_explain)
