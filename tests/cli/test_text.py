from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.cli.text import count, format_seconds
from bye_audit.report.text import clip, escape_controls


@given(st.text())
def test_nothing_that_steers_a_terminal_survives(text: str) -> None:
    shown = escape_controls(text, keep="")
    kinds = {
        unicodedata.category(character) for character in shown if character not in "\u200c\u200d"
    }
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert escape_controls(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b2J", "\\x9b2J"),
        ("lone \ud800", "lone \\ud800"),
        ("two\nlines\t.", "two\nlines\t."),
    ],
    ids=["escape", "right-to-left", "c1", "surrogate", "newline and tab"],
)
def test_hidden_characters_are_spelled_out(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@given(st.text(), st.integers(1, 40))
def test_a_clipped_cell_is_one_line_of_its_width(text: str, width: int) -> None:
    cell = clip(text, width)
    assert len(cell) <= width
    assert cell.splitlines() == ([cell] if cell else [])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (41, "41 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def test_counts_agree_with_their_noun() -> None:
    assert count(1, "sample") == "1 sample"
    assert count(4000, "sample") == "4,000 samples"
