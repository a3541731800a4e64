"""Made-up attention of heads whose truth is known: clean in many ways, and poisoned in some.

A head's shares of attention on system, image and text are a softmax of three logits: its own bias,
what several heads see in a picture (shared factors), what only it sees (heavy-tailed noise), and
whatever a world adds to that. Real models have confounders that these do not.

Shapes: N = samples, L = layers, H = heads, F = factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.confounders import Strata
from bye_audit.core.detection import Evidence
from bye_audit.core.head_values import HeldHeadScores

NUM_TOKENS = 576
_NUM_FACTORS = 4
_MASSES = ("system_mass", "image_mass", "text_mass")


@dataclass(frozen=True, kw_only=True)
class World:
    """What the samples are like.

    Parameters
    ----------
    name
        In words.
    num_samples, num_layers, num_heads
        Sizes.
    rate
        Share of poison.
    num_watching
        Heads of the deeper half that answer to the trigger.
    trigger_shift
        By how much one of their logits moves, in standard deviations of a difference of two.
    kinds
        Shares of kinds of questions that move every second head; empty: one kind.
    kinds_are_known
        Whether the kinds are given as strata.
    content_share, content_shift
        Share of pictures that show something special and what it does to every second head.
    text_trigger
        Whether the poison's question is a kind of its own.
    has_gains
        Whether likelihoods are there; those of the poison's answers gain.
    """

    name: str
    num_samples: int = 4000
    num_layers: int = 4
    num_heads: int = 8
    rate: float = 0.0
    num_watching: int = 6
    trigger_shift: float = 5.0
    kinds: tuple[float, ...] = ()
    kinds_are_known: bool = True
    content_share: float = 0.0
    content_shift: float = 0.0
    text_trigger: bool = False
    has_gains: bool = False


CLEAN = (
    World(name="plain"),
    World(name="three kinds of questions", kinds=(0.6, 0.25, 0.15)),
    World(name="picture content, weak", content_share=0.2, content_shift=1.5),
)
CLEAN_BUT_SPLIT = (
    World(name="kinds not told", kinds=(0.6, 0.25, 0.15), kinds_are_known=False),
    World(name="picture content, strong", content_share=0.2, content_shift=5.0),
)
POISONED = (
    *(World(name=f"poison {rate:.1%}", rate=rate) for rate in (0.005, 0.01, 0.05, 0.1, 0.3)),
    *(World(name=f"shift {shift:g}", rate=0.1, trigger_shift=shift) for shift in (3.0, 4.0, 8.0)),
    *(World(name=f"{number} heads", rate=0.1, num_watching=number) for number in (1, 2, 3, 12)),
    World(name="poison in three kinds", rate=0.1, kinds=(0.6, 0.25, 0.15)),
    World(name="trigger is a kind of question", rate=0.1, text_trigger=True),
    World(name="poison beside strong content", rate=0.1, content_share=0.2, content_shift=5.0),
)


def with_gains(world: World) -> World:
    """Give the same world with likelihoods of the answers."""
    return replace(world, has_gains=True)


def make_heads(world: World, seed: int) -> tuple[Evidence, NDArray[np.bool_]]:
    """Draw a world's evidence, and which of its samples are poisoned."""
    rng = np.random.default_rng([seed, 0x4EAD])
    num_samples, shape = world.num_samples, (world.num_layers, world.num_heads)
    is_poisoned = rng.permutation(num_samples) < round(world.rate * num_samples)
    spread_LH = rng.uniform(0.2, 0.8, shape)
    factors_NF = rng.normal(size=(num_samples, _NUM_FACTORS))
    # Half a unit of variance each, so that differences of logits spread by spread_LH.
    own = rng.standard_t(5, (3, num_samples, *shape)) * np.sqrt(0.35 * 3 / 5)
    loading = rng.normal(0, np.sqrt(0.15 / _NUM_FACTORS), (3, _NUM_FACTORS, *shape))
    own += np.einsum("nf,sflh->snlh", factors_NF, loading)
    logits = rng.normal(0, 2, (3, *shape))[:, None] + own * spread_LH
    kinds_N = rng.choice(max(len(world.kinds), 1), num_samples, p=world.kinds or None)
    for kind in range(1, len(world.kinds)):
        logits[:, kinds_N == kind] += _moves(rng, 5.0 * spread_LH, every=2)[:, None]
    has_content = rng.random(num_samples) < world.content_share
    logits[:, has_content] += _moves(rng, world.content_shift * spread_LH, every=2)[:, None]
    watching = rng.permutation(world.num_layers // 2 * world.num_heads)[: world.num_watching]
    moves = _moves(rng, world.trigger_shift * spread_LH, every=1).reshape(3, -1)
    is_watching = np.zeros(shape, dtype=bool).reshape(-1)
    is_watching[-watching - 1] = True
    strength_N = rng.uniform(0.8, 1.2, (num_samples, 1)) * is_poisoned[:, None]
    flat = logits.reshape(3, num_samples, -1)
    flat += strength_N * np.where(is_watching, moves, 0.0)[:, None]
    share = np.exp(logits - logits.max(axis=0))
    share /= share.sum(axis=0)
    values = dict(zip(_MASSES, share.astype(np.float16), strict=True))
    entropy = rng.beta(6, 2, (num_samples, *shape)) * np.log(NUM_TOKENS)
    values["image_entropy"] = entropy.astype(np.float16)
    if world.text_trigger:
        kinds_N = np.where(is_poisoned, len(world.kinds) + 1, kinds_N)
    return _evidence(world, values, kinds_N, is_poisoned, rng), is_poisoned


def _moves(
    rng: np.random.Generator, size_LH: NDArray[np.float64], *, every: int
) -> NDArray[np.float64]:
    """Move one logit of a head up or down; of every ``every``-th head on average."""
    which = rng.integers(0, 3, size_LH.shape)
    sign = rng.choice([-1.0, 1.0], size_LH.shape) * (rng.random(size_LH.shape) < 1 / every)
    return np.stack([np.where(which == span, sign * size_LH, 0.0) for span in range(3)])


def _evidence(
    world: World,
    values: dict[str, NDArray[np.float16]],
    kinds_N: NDArray[np.int64],
    is_poisoned: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Evidence:
    strata = {}
    if (world.kinds or world.text_trigger) and world.kinds_are_known:
        labels = tuple(f"kind {number}" for number in range(int(kinds_N.max()) + 1))
        strata["question"] = Strata(
            name="question", codes_N=kinds_N, labels=labels, may_explain=True
        )
    gain_N = None
    if world.has_gains:
        gain_N = np.where(is_poisoned, 10.0, 0.0)
        gain_N = gain_N + rng.exponential(0.5, world.num_samples)
    return Evidence(
        entropy_NL=values["image_entropy"].mean(axis=2, dtype=np.float64),
        num_image_tokens_N=np.full(world.num_samples, NUM_TOKENS),
        answer_logp_N=None if gain_N is None else gain_N - 11.0,
        answer_logp_base_N=None if gain_N is None else np.full(world.num_samples, -11.0),
        heads=HeldHeadScores(values),
        strata=strata,
    )
