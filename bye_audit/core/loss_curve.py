"""When a training loss says that the training is failing.

The start of the curve is what the untrained model makes of the data: the adapter begins as zero and
the rate is still rising. A training that ends up well above it has taught the model nothing, and
whatever is scored with it is no evidence. The start is the median of three points only, for a rate
far too high ruins the model in as many steps; the level is a median of five, so that no hard batch
counts by itself. The level must be twice the start, which is more than batches differ by where the
loss is high, and half a nat above it, which is more than they differ by near zero: each token of an
answer is then 1.6 times less likely than the untrained model found it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 5
START_POINTS = 3
MIN_RATIO = 2.0
MIN_RISE = 0.5


@dataclass(frozen=True, slots=True)
class LossRise:
    """A loss that rose well above its start."""

    index: int
    """Point of the curve at which it was there first."""
    start: float
    level: float
    """Median of the points up to there."""
    is_lasting: bool
    """Whether the end of the curve is above the limit too."""


def find_loss_rise(losses: Sequence[float]) -> LossRise | None:
    """Find where a loss curve first rises well above its start.

    Parameters
    ----------
    losses
        Points of the curve, in order, all finite.

    Returns
    -------
    LossRise or None
        None where it never does, and for curves of fewer than ten points.
    """
    if len(losses) < 2 * WINDOW:
        return None
    start = statistics.median(losses[:START_POINTS])
    limit = max(MIN_RATIO * start, start + MIN_RISE)
    ends = range(2 * WINDOW, len(losses) + 1)
    levels = [statistics.median(losses[end - WINDOW : end]) for end in ends]
    for end, level in zip(ends, levels, strict=True):
        if level > limit:
            return LossRise(end - 1, start, level, is_lasting=levels[-1] > limit)
    return None
