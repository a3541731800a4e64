"""How commands end: the one place where an error becomes a sentence and an exit status."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from bye_audit.cli.group import AuditGroup
from bye_audit.errors import InputError, TableError


def _group_that_raises(error: BaseException) -> AuditGroup:
    @click.group(cls=AuditGroup)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        click.echo("before")
        raise error

    return group


@pytest.mark.parametrize("error_type", [InputError, TableError])
def test_our_errors_end_in_a_sentence_a_hint_and_their_status(error_type: type[InputError]) -> None:
    error = error_type("train.json is not there.", hint="name a file.")
    result = CliRunner().invoke(_group_that_raises(error), ["fail"])
    assert result.exit_code == error_type.exit_code
    assert result.stderr == "Error: train.json is not there.\nHint: name a file.\n"
    assert result.stdout == "before\n"


def test_an_error_cannot_steer_the_terminal() -> None:
    error = InputError("evil\x1b]0;title\x07name", hint="\x1b[2J")
    result = CliRunner().invoke(_group_that_raises(error), ["fail"], color=True)
    assert "evil\\x1b]0;title\\x07name" in result.stderr
    assert "\\x1b[2J" in result.stderr


def test_ctrl_c_says_how_to_go_on() -> None:
    result = CliRunner().invoke(_group_that_raises(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert "kept" in result.stderr
    assert "run the same command again" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bug_keeps_its_traceback() -> None:
    result = CliRunner().invoke(_group_that_raises(ZeroDivisionError("bug")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    group = _group_that_raises(InputError("no", hint="yes"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in CliRunner().invoke(group, ["fail"]).stderr
    assert "\x1b[" in CliRunner().invoke(group, ["fail"], color=True).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in CliRunner().invoke(group, ["fail"], color=True).stderr
