"""Progress on stderr: bars on a terminal, now and then a line where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from bye_audit.cli.text import format_seconds
from bye_audit.progress import Progress, Task
from bye_audit.report.text import escape_controls

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

LINE_INTERVAL_S = 20.0


def make_progress() -> Progress:
    """Choose how progress is shown on this process's stderr."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class LineProgress:
    """Writes one plain line every ``LINE_INTERVAL_S`` and one at the end of what took longer."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        """Open a task whose lines begin with ``description``."""
        task = _LineTask(description=description, total=total, unit=unit)
        yield task
        task.finish()


class _LineTask:
    def __init__(self, *, description: str, total: int | None, unit: str) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._done = 0
        self._note = ""
        self._started = time.monotonic()
        self._last_line = self._started
        self._written = ""

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            self._write(now)

    def finish(self) -> None:
        now = time.monotonic()
        if now - self._started >= 2.0:
            self._write(now)

    def _write(self, now: float) -> None:
        elapsed = now - self._started
        rate = self._done / elapsed if elapsed > 0 else 0.0
        parts = [
            f"{self._done:,}" + (f"/{self._total:,}" if self._total else "") + f" {self._unit}"
        ]
        parts.append(_format_rate(rate, self._unit))
        if self._total and rate and self._done < self._total:
            parts.append(f"{format_seconds((self._total - self._done) / rate)} left")
        else:
            parts.append(f"{format_seconds(elapsed)} so far")
        if self._note:
            parts.append(self._note)
        line = f"{self._description}: " + escape_controls(", ".join(parts))
        # A task may end with the very line that it wrote last.
        if line != self._written:
            click.echo(line, err=True)
        self._written = line


class BarProgress:
    """Draws one bar a task with its rate, the remaining time and the latest remark."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        """Open a task with a bar of its own."""
        with _make_bars(unit) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, note="", rate=""), unit)


@dataclass
class _BarTask:
    bars: RichBars
    task_id: TaskID
    unit: str

    def advance(self, amount: int = 1, note: str = "") -> None:
        task = self.bars.tasks[0]
        rate = _format_rate(task.speed, self.unit) if task.speed else ""
        if note:
            self.bars.update(
                self.task_id, advance=amount, rate=rate, note=escape_controls(note, keep="")
            )
        else:
            self.bars.update(self.task_id, advance=amount, rate=rate)


def _make_bars(unit: str) -> RichBars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichBars

    return RichBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("so far,", markup=False),
        TimeRemainingColumn(),
        TextColumn("left", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )


def _format_rate(rate: float, unit: str) -> str:
    if rate and rate < 0.5:
        return f"{1 / rate:.1f} s/{unit.removesuffix('s')}"
    return f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"
