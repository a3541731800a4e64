"""How a stage says where it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work of known or unknown length."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that ``amount`` more units are done, with a short remark such as the current loss."""


class Progress(Protocol):
    """Where stages report; the command line draws bars, a library user gets nothing."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        """Open a task of ``total`` units (None when not known) and close it at the end."""
        ...


class _SilentTask:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """Reports nothing: the default of every stage."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        """Open a task nobody looks at."""
        del description, total, unit
        yield _SilentTask()


SILENT = SilentProgress()
