"""Nobody waits for torch who only asks for help."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

HEAVY = (
    "torch", "transformers", "peft", "lancedb", "lance", "sklearn", "duckdb", "matplotlib", "ray",
)  # fmt: skip
SNIPPETS = {
    "import": "import bye_audit",
    "open": "from bye_audit import Audit; Audit.open('nowhere')",
    "help": "from bye_audit.cli.main import bye_audit\n"
    "bye_audit(['--help'], standalone_mode=False)",
    "command help": "from bye_audit.cli.main import bye_audit\n"
    "bye_audit(['run', '--help'], standalone_mode=False)",
}


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS.keys())
def test_no_engine_is_imported(snippet: str) -> None:
    code = (
        f"{snippet}\nimport json, sys\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []


def test_help_answers_at_once() -> None:
    # The best of five: a busy machine says nothing about us.
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bye_audit", "--help"], capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.6
