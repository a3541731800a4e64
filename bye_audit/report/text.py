"""Text of unknown origin made safe to show to people."""

from __future__ import annotations

import unicodedata

# Controls, format characters (direction overrides among them), surrogates, line separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Persian, Indic scripts and emoji cannot be written without the joiners.
_JOINERS = "\u200c\u200d"


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
        if character in keep
        or character in _JOINERS
        or unicodedata.category(character) not in _UNSAFE_CATEGORIES
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def clip(text: str, width: int) -> str:
    """Shorten to ``width`` characters on one line, with an ellipsis where something is cut."""
    line = escape_controls(text.replace("\n", "\\n").replace("\t", " "), keep="")
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
