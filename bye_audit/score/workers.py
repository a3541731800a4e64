"""Processes that read and encode ahead of the model, so that it never waits."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from bye_audit.score.work import WindowReader
from bye_audit.store.windows import Rows

if TYPE_CHECKING:
    from bye_audit.model.samples import PreparedSample

# Below this much work, starting processes costs more than they bring.
_FEWEST_WINDOWS = 8
_MOST_WORKERS = 8
_WINDOWS_AHEAD = 2
_reader: WindowReader | None = None


def count_cores() -> int:
    """Cores this process may really use: affinity and container limits counted."""
    from loky import cpu_count

    return int(cpu_count())


def set_threads() -> None:
    """Let torch use the cores that are really there: a container may have fewer than it shows."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))


def choose_num_workers(num_windows: int, wanted: int | None) -> int:
    """Choose how many processes read ahead: as told, else one core is left to the model."""
    if wanted is not None:
        return wanted
    if num_windows < _FEWEST_WINDOWS:
        return 0
    return min(_MOST_WORKERS, count_cores() - 1)


def read_windows(
    reader: WindowReader, windows: Sequence[Rows], num_workers: int
) -> Generator[list[PreparedSample]]:
    """Read all windows in order, ahead of the caller where there are workers.

    Until the first worker has started, and if one dies, windows are read here.
    """
    if num_workers == 0:
        yield from map(reader.read, windows)
        return
    # Unlike the standard library's, these processes do not run the caller's script again.
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(reader,))
    try:
        yield from _read_ahead(pool, reader, windows, _WINDOWS_AHEAD * num_workers)
    finally:
        pool.shutdown(wait=False, kill_workers=True)


def _read_ahead(
    pool: Any, reader: WindowReader, windows: Sequence[Rows], num_ahead: int
) -> Generator[list[PreparedSample]]:
    waiting: deque[Future[list[PreparedSample]]] = deque()
    num_sent = num_given = 0
    try:
        ready = pool.submit(_say_ready)
        while num_given < len(windows):
            if ready.done():
                while num_sent < len(windows) and len(waiting) < num_ahead:
                    waiting.append(pool.submit(_read_window, windows[num_sent]))
                    num_sent += 1
                samples = waiting.popleft().result()
            else:
                samples = reader.read(windows[num_given])
                num_sent += 1
            num_given += 1
            yield samples
    except BrokenProcessPool:
        # A worker was killed, perhaps for want of memory: what is left is read here.
        yield from map(reader.read, windows[num_given:])


def _start_worker(reader: WindowReader) -> None:
    global _reader
    # Ctrl-C is for the process that commits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    _reader = reader


def _say_ready() -> None:
    """Be answered only by a worker that has started."""


def _read_window(rows: Rows) -> list[PreparedSample]:
    assert _reader is not None
    return _reader.read(rows)
