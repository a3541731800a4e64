"""The one place where an error becomes a sentence and an exit status."""

from __future__ import annotations

import os
from typing import Any

import click

from bye_audit.errors import ByeAuditError, ConfigError
from bye_audit.processes import count_processes
from bye_audit.report.text import escape_controls

INTERRUPTED_STATUS = 130
_IN_SEVERAL_PROCESSES = ("finetune",)


class AuditGroup(click.Group):
    """Commands whose deliberate errors end in one sentence, a hint and their own exit status.

    An exception that is none of ours keeps its traceback: it is a bug, and hiding it would make it
    harder to mend.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and translate what a user or a dataset can cause."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except ByeAuditError as error:
            _explain(error.message, error.hint)
            raise click.exceptions.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            _explain(
                "Stopped; everything that was committed before is kept.",
                "run the same command again: it goes on where it stopped.",
            )
            raise click.exceptions.Exit(INTERRUPTED_STATUS) from interrupt

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse what several processes would do several times."""
        found = super().resolve_command(ctx, args)
        if count_processes() > 1 and found[0] not in _IN_SEVERAL_PROCESSES:
            raise ConfigError(
                f"{found[0]} cannot run in {count_processes()} processes.",
                hint="Only finetune can be started by torchrun or accelerate launch.",
            )
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they are used."""
        del ctx
        return list(self.commands)


def _explain(message: str, hint: str) -> None:
    # Messages may quote a dataset: nothing in them may steer the terminal.
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {escape_controls(message)}", err=True)
    if hint:
        click.echo(
            f"{click.style('Hint:', fg='yellow', bold=True)} {escape_controls(hint)}", err=True
        )
