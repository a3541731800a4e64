"""One writer at a time where two would write the same rows twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bye_audit.errors import TableError
from bye_audit.store.border import storage_errors

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def sole_writer(uri: str, stage: str) -> Iterator[None]:
    """Hold an audit directory's lock for a stage; the system frees it however the process ends.

    Object stores and Windows have no such lock, so there nothing is held.

    Raises
    ------
    TableError
        If another process holds it.
    """
    if "://" in uri or fcntl is None:
        yield
        return
    with storage_errors(f"lock {uri}"):
        file = Path(uri, f".{stage}.lock").open("w", encoding="utf-8")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TableError(
                f"Another {stage} is writing to {uri}.",
                hint="Wait for it to end, or stop it; what it has written is kept.",
            ) from None
        yield
