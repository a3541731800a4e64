"""In which order samples are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class StepSortedSampler(torch.utils.data.Sampler[int]):
    """A random order in which the samples of one optimiser step stand by length.

    What is in a step is as random as ever, and its gradient is the same sum; but its micro-batches
    are of like length, so that little is padded. Grouping by length over the whole dataset would
    pad less, yet gather all poisoned samples, whose answers are of one length, in a few steps.

    Parameters
    ----------
    lengths
        Of each sample, in any unit.
    batch_size
        Samples of a step, over all processes.
    seed
        Of the order; each epoch has another.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order), self._batch_size):
            step = order[start : start + self._batch_size]
            # The longest first: a step that does not fit into memory fails at once.
            yield from sorted(step, key=lambda index: -self._lengths[index])
