"""``python -m bye_audit`` and the ``bye-audit`` command."""

from __future__ import annotations

from bye_audit.cli.main import bye_audit


def main() -> None:
    """Run the command line with the arguments of this process."""
    bye_audit(prog_name="bye-audit")


if __name__ == "__main__":
    main()
