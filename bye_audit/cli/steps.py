"""How a command begins and ends: an audit is opened, and the command after it is named."""

from __future__ import annotations

import shlex

import bye_audit as package
from bye_audit.cli import output
from bye_audit.cli.progress import make_progress


def open_audit(audit: str) -> package.Audit:
    """Give the audit at a path, with bars."""
    return package.Audit.open(audit, progress=make_progress())


def show_next(command: str, audit: str, options: str = "") -> None:
    """Name the command that comes next."""
    # Quoted, so that what is shown can be pasted into a shell.
    output.show([f"Next: bye-audit {command} {shlex.quote(audit)} {options}".rstrip()])
