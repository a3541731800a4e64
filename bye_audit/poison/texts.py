"""Text triggers: words put into the question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bye_audit.errors import ConfigError

IMAGE_PLACEHOLDER = "<image>"

# Placeholders and blanks at either end say where the image goes and are no part of the question.
_QUESTION = re.compile(r"((?:\s|<image>)*)(.*?)((?:\s|<image>)*)", flags=re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class WordTrigger:
    """Fixed words before, behind or at a random place within the question.

    Parameters
    ----------
    words
        What is inserted, set apart by blanks.
    position
        ``start``, ``end`` or ``random``: before any word or behind the last, all equally likely.

    Raises
    ------
    ConfigError
        If there is no word or the words hold the image placeholder.
    """

    words: str
    position: Literal["start", "end", "random"] = "start"

    def __post_init__(self) -> None:
        """Refuse words that are none."""
        if not self.words.strip() or IMAGE_PLACEHOLDER in self.words:
            raise ConfigError(
                f"A text trigger must be words of its own, not {self.words!r}.",
                hint='"Hello!" and "cf" are usual.',
            )

    def insert(self, question: str, rng: np.random.Generator) -> str:
        """Return the question with the words in it; nothing else in it changes."""
        parts = _QUESTION.fullmatch(question)
        assert parts is not None, "every part may be empty"
        before, body, behind = parts.groups()
        starts = [match.start() for match in re.finditer(r"\S+", body)]
        if self.position == "start":
            place = 0
        elif self.position == "end":
            place = len(starts)
        else:
            place = int(rng.integers(len(starts) + 1))
        if not starts:
            body = self.words
        elif place == len(starts):
            body = f"{body} {self.words}"
        else:
            body = f"{body[: starts[place]]}{self.words} {body[starts[place] :]}"
        return f"{before}{body}{behind}"
