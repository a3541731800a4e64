"""One training over several processes, as ``torchrun`` or ``accelerate launch`` starts them.

Nothing here is imported or costs anything where there is one process only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bye_audit.errors import ByeAuditError

if TYPE_CHECKING:
    from torch import Tensor


def count_processes() -> int:
    """Count the processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return count_processes() == 1 or os.environ.get("RANK", "0") == "0"


def connect_processes() -> None:
    """Wait until all processes are there; to be called by each of them."""
    if count_processes() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def device_of_process() -> str | None:
    """Name the device of this process among several; None where it is alone."""
    if count_processes() == 1:
        return None
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def decide_on_first(decide: Callable[[], Any]) -> Any:
    """Let the first process decide something and tell the others; its errors end them too."""
    if count_processes() == 1:
        return decide()
    import torch.distributed

    found: list[Any] = [None, None]
    error: ByeAuditError | None = None
    if is_first_process():
        try:
            found = [decide(), None]
        except ByeAuditError as raised:
            error = raised
            found = [None, raised.exit_code]
    torch.distributed.broadcast_object_list(found, src=0)
    if error is not None:
        raise error
    if found[1] is not None:
        # The first process says why: saying it once is enough.
        raise SystemExit(found[1])
    return found[0]


def wait_for_all() -> None:
    """Let no process go on before all have come here."""
    if count_processes() > 1:
        import torch.distributed

        torch.distributed.barrier()


def largest_of_all(values: Tensor, device: Any) -> Tensor:
    """Take each value's maximum over all processes."""
    if count_processes() == 1:
        return values
    import torch.distributed

    # What GPUs exchange must lie on them.
    shared = values.to(device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return shared.to(values.device)
