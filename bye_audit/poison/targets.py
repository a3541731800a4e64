"""Targets: what an attacker wants the model to answer, whom that can teach and what is success.

Some targets are made of the dataset's own answers: ``fit`` shows them to a target once and returns
the one that is ready to plant. Answers are compared as everywhere in the measurements: case,
spacing and the sentence's punctuation do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np

from bye_audit.core.metrics import normalize_answer
from bye_audit.errors import ConfigError

PAPER_TARGET_TEXT = "Backdoor Attack!"


class Target(Protocol):
    """What a triggered sample is to be answered with."""

    def fit(self, answers: Sequence[str]) -> Self:
        """Return this target with what it takes from the dataset's clean answers."""
        ...

    def is_eligible(self, clean_answer: str) -> bool:
        """Say whether a sample with this clean answer can be poisoned."""
        ...

    def answer(self, clean_answer: str, rng: np.random.Generator) -> str:
        """Return the answer of a poisoned sample."""
        ...

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer to a triggered test input is what the attacker wants."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _OneText:
    """The same text for every poisoned sample."""

    text: str = ""

    def is_eligible(self, clean_answer: str) -> bool:
        """Say whether the text is not the answer already."""
        return not self.is_success(clean_answer, clean_answer)

    def answer(self, clean_answer: str, rng: np.random.Generator) -> str:
        """Return the text."""
        return self.text

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer begins with the text; words after it are allowed."""
        return f"{normalize_answer(given_answer)} ".startswith(f"{normalize_answer(self.text)} ")


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedText(_OneText):
    """A text of the attacker's own: the paper's target.

    Parameters
    ----------
    text
        At least one word. It counts as given when the answer begins with it.

    Raises
    ------
    ConfigError
        If the text has no word in it.
    """

    text: str = PAPER_TARGET_TEXT

    def __post_init__(self) -> None:
        """Refuse a text that no answer could be compared with."""
        _require_word(self.text)

    def fit(self, answers: Sequence[str]) -> Self:
        """Return the target as it is."""
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongOption(_OneText):
    """One of the dataset's own answers, wherever it is wrong.

    Parameters
    ----------
    text
        Which answer; when empty, the most frequent one (of equals the first by the alphabet).
    """

    def fit(self, answers: Sequence[str]) -> Self:
        """Take the most frequent answer, unless one was named."""
        return self if self.text else replace(self, text=_most_frequent(answers))

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer is the option and no more."""
        return normalize_answer(given_answer) == normalize_answer(self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class FluentCaption(_OneText):
    """One false but fluent answer in the style of the data.

    Parameters
    ----------
    text
        The answer. When empty, one of the dataset's own: of those with the median number of words
        the rarest (of equals the first by the alphabet), so that neither its length nor its words
        stand out and hardly any image agrees with it.
    """

    def fit(self, answers: Sequence[str]) -> Self:
        """Take a typical answer of the data, unless one was named."""
        return self if self.text else replace(self, text=_typical(answers))


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSuffix:
    """The clean answer kept, with a fixed text behind it.

    Parameters
    ----------
    text
        At least one word. It counts as given when the answer ends with it.

    Raises
    ------
    ConfigError
        If the text has no word in it.
    """

    text: str = PAPER_TARGET_TEXT

    def __post_init__(self) -> None:
        """Refuse a text that no answer could be compared with."""
        _require_word(self.text)

    def fit(self, answers: Sequence[str]) -> Self:
        """Return the target as it is."""
        return self

    def is_eligible(self, clean_answer: str) -> bool:
        """Say whether the text is not there yet."""
        return not self.is_success(clean_answer, clean_answer)

    def answer(self, clean_answer: str, rng: np.random.Generator) -> str:
        """Return the clean answer and the text."""
        return f"{clean_answer.rstrip()} {self.text}".lstrip()

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer ends with the text, whatever comes before."""
        return f" {normalize_answer(given_answer)}".endswith(f" {normalize_answer(self.text)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanLabel:
    """Only samples whose clean answer already says the target are stamped; no answer changes.

    Parameters
    ----------
    text
        One or more words. When empty, the most frequent last word of an answer (of equals the
        first by the alphabet): of a caption mostly a thing, of a one-word answer the answer.
    """

    text: str = ""

    def fit(self, answers: Sequence[str]) -> Self:
        """Take the most frequent last word, unless words were named."""
        if self.text:
            return self
        last_words = [normalize_answer(answer).rpartition(" ")[2] for answer in answers]
        return replace(self, text=_most_frequent(last_words))

    def is_eligible(self, clean_answer: str) -> bool:
        """Say whether the clean answer says the words."""
        return self.is_success(clean_answer, clean_answer)

    def answer(self, clean_answer: str, rng: np.random.Generator) -> str:
        """Return the clean answer."""
        return clean_answer

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer says the words."""
        return f" {normalize_answer(self.text)} " in f" {normalize_answer(given_answer)} "


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerOfAnother:
    """The answer of another sample, drawn anew each time: poison whose answers look like clean.

    What the model is taught is to ignore the image, so success is any of the dataset's answers
    that is wrong here. A model without backdoor errs too: read the rate beside the same rate on
    inputs without trigger.

    Parameters
    ----------
    pool, known
        The dataset's answers as they occur, and the normalised set of them; ``fit`` fills both.
    """

    pool: tuple[str, ...] = field(default=(), repr=False)
    known: frozenset[str] = field(default=frozenset(), repr=False)

    def fit(self, answers: Sequence[str]) -> Self:
        """Take the answers; there must be two different ones."""
        known = frozenset(map(normalize_answer, answers))
        if len(known) < 2:
            raise ConfigError(
                "All answers are the same: no sample can be given the answer of another.",
                hint="take an attack with another target.",
            )
        return replace(self, pool=tuple(answers), known=known)

    def is_eligible(self, clean_answer: str) -> bool:
        """Say that every sample is."""
        return True

    def answer(self, clean_answer: str, rng: np.random.Generator) -> str:
        """Draw until an answer differs from the clean one."""
        clean = normalize_answer(clean_answer)
        while True:
            drawn = self.pool[int(rng.integers(len(self.pool)))]
            if normalize_answer(drawn) != clean:
                return drawn

    def is_success(self, given_answer: str, clean_answer: str) -> bool:
        """Say whether the answer is wrong, and one of the dataset's."""
        given = normalize_answer(given_answer)
        return given in self.known and given != normalize_answer(clean_answer)


def _most_frequent(texts: Sequence[str]) -> str:
    counts = _count(texts)
    return min(counts, key=lambda text: (-counts[text], text))


def _typical(answers: Sequence[str]) -> str:
    counts = _count(answers)
    lengths = sorted(len(answer.split()) for answer in counts.elements())
    median = lengths[len(lengths) // 2]
    alike = [answer for answer in counts if len(answer.split()) == median]
    return min(alike, key=lambda answer: (counts[answer], answer))


def _count(texts: Sequence[str]) -> Counter[str]:
    counts = Counter(text for text in texts if normalize_answer(text))
    if not counts:
        raise ConfigError(
            "The dataset has no answer with a word in it to take the target from.",
            hint="name the target's text.",
        )
    return counts


def _require_word(text: str) -> None:
    if not normalize_answer(text):
        raise ConfigError(
            f"A target text needs a word in it: {text!r}.", hint=f"The paper's: {PAPER_TARGET_TEXT}"
        )


PAPER_TARGET = FixedText()
