from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from bye_audit.cli import progress
from bye_audit.cli.progress import BarProgress, LineProgress, make_progress

BAR_SCRIPT = """
from bye_audit.cli.progress import make_progress
with make_progress().task("Scoring", 4, "samples") as task:
    for _ in range(4):
        task.advance(1, "loss 0.5")
"""


def test_without_a_terminal_there_are_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_progress(), LineProgress)
    with make_progress().task("Scoring", 4) as task:
        task.advance(4)
    # Nobody needs a line about work of a moment.
    assert capfd.readouterr() == ("", "")


def test_lines_say_how_far_and_how_long(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with LineProgress().task("Scoring", 10, "samples") as task:
        task.advance(2, note="loss \x1b[31m0.5")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Scoring: 2/10 samples, ")
    assert " left, loss \\x1b[31m0.5" in captured.err


@pytest.mark.parametrize(("end", "num_lines"), [(30.01, 1), (90.0, 2)])
def test_the_last_line_is_not_written_twice(
    end: float, num_lines: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 30.0, end])
    monkeypatch.setattr("bye_audit.cli.progress.time.monotonic", lambda: next(now))
    with LineProgress().task("Questioning", 1, "groups") as task:
        task.advance(1, note="3,526 questions")
    assert capfd.readouterr().err.count("Questioning: 1/1 groups") == num_lines


def test_lines_work_without_a_total(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with LineProgress().task("Reading", None, "rows") as task:
        task.advance(3)
    assert capfd.readouterr().err.startswith("Reading: 3 rows, ")


def test_a_terminal_gets_a_bar_on_stderr() -> None:
    ours, theirs = pty.openpty()
    child = subprocess.run(
        [sys.executable, "-c", BAR_SCRIPT],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert child.stdout == b""
    for part in ("Scoring", "4/4", "samples", "loss 0.5"):
        assert part in shown


def test_a_note_is_no_markup(capfd: pytest.CaptureFixture[str]) -> None:
    with BarProgress().task("Scoring", 1) as task:
        task.advance(1, note="[/red] [link=http://x]y")
    assert "[/red] [link=http://x]y" in capfd.readouterr().err
