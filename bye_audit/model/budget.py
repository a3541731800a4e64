"""How many tokens go through the model at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

_START = {"cpu": 2048, "cuda": 16384}
_MOST = 1 << 20
# Twice the tokens take at most twice the memory above the weights.
_GROWS_BELOW = 0.45


class TokenBudget:
    """Most tokens a pass: fixed on a CPU, found by trying on a GPU.

    On a CPU more tokens at once are hardly faster and take more memory. On a GPU the budget doubles
    as long as a pass that filled it left more than half of the memory free, and halves for good
    when one did not fit. What it becomes depends on the samples and the GPU alone, so that two runs
    on one machine make the same batches.

    Parameters
    ----------
    device
        Where the model is.
    fixed
        What the user wants. None: as above.
    used_share
        Tells how much of the device's memory was in use at most, in [0, 1].
    """

    def __init__(
        self,
        device: torch.device,
        fixed: int | None = None,
        used_share: Callable[[], float] | None = None,
    ) -> None:
        self.tokens = fixed or _START.get(device.type, 4096)
        self._grows = fixed is None and device.type == "cuda"
        self._used_share = used_share or (lambda: _cuda_share(device))

    def after_pass(self, num_tokens: int) -> None:
        """Learn from a pass of this many tokens that fitted."""
        if self._grows and 2 * num_tokens > self.tokens and self._used_share() < _GROWS_BELOW:
            self.tokens = min(2 * self.tokens, _MOST)

    def after_failure(self) -> None:
        """Learn from a pass that did not fit into memory."""
        self.tokens = max(self.tokens // 2, 1)
        self._grows = False


def _cuda_share(device: torch.device) -> float:
    total = torch.cuda.get_device_properties(device).total_memory
    return float(torch.cuda.max_memory_allocated(device) / total)
