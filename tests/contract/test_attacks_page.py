"""The page of attacks is the registry's."""

from __future__ import annotations

from pathlib import Path

from benchmarks.attacks_page import page

ROOT = Path(__file__).parents[2]


def test_the_page_of_attacks_is_current() -> None:
    # Mend with: python -m benchmarks.attacks_page --write docs/attacks.md
    assert (ROOT / "docs" / "attacks.md").read_text("utf-8") == page()
