"""Text of unknown origin made safe to print, and numbers as people read them."""

from __future__ import annotations

import unicodedata

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def escape_controls(text: str, *, keep: str = "\n\t") -> str:
    r"""Spell out every character that could steer a terminal or hide text.

    Parameters
    ----------
    text
        Anything, possibly written by an attacker.
    keep
        Control characters that stay as they are.

    Returns
    -------
    str
        The text with escape sequences, direction overrides and the like as ``\x1b``, ``\u202e``.

    Examples
    --------
    >>> escape_controls("red\x1b[2Jcircle")
    'red\\x1b[2Jcircle'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _UNSAFE_CATEGORIES
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def clip(text: str, width: int) -> str:
    """Shorten to ``width`` characters on one line, with an ellipsis where something is cut."""
    line = escape_controls(text.replace("\n", "\\n").replace("\t", " "), keep="")
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def format_seconds(seconds: float) -> str:
    """Write a duration as ``41 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, noun: str) -> str:
    """Write a number with its noun, as in ``1 sample`` or ``4,000 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
