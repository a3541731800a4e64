"""What is suspicious about a group's answers, in a form that the models can be asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bye_audit.core.metrics import normalize_answer
from bye_audit.core.phrases import contains_phrase

if TYPE_CHECKING:
    from bye_audit.confirm.exhibits import Exhibit
    from bye_audit.model.likelihood import Reply


class Pattern(Protocol):
    """What a trigger makes the model answer."""

    @property
    def text(self) -> str:
        """The answer, or the words in it; empty where it makes no answer in particular."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the likelihood of one answer tells if the model gives it."""
        ...

    def matches(self, answer: str) -> bool:
        """Whether a sample with this answer may have been made so by the trigger."""
        ...

    def asked_of(self, exhibit: Exhibit) -> str:
        """Give the answer whose likelihood tells."""
        ...

    def grade(self, reply: Reply) -> tuple[float, float]:
        """Tell whether the model answers so, 1 or 0, and how likely it is to, in nats a token."""
        ...

    def is_said_of(self, exhibit: Exhibit, answer: str) -> bool:
        """Whether the base model, in its own words, says of an exhibit what the pattern does."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPattern:
    """What the answers of a group of suspects have in common.

    Parameters
    ----------
    text
        The answer, or the words in it.
    is_whole
        Whether the text is all of the answer.
    telling
        Its words, normalised, that most other answers lack.
    """

    text: str
    is_whole: bool
    telling: frozenset[str]

    def matches(self, answer: str) -> bool:
        """Whether an answer is of this pattern; case and outer punctuation do not count."""
        wanted, given = normalize_answer(self.text), normalize_answer(answer)
        if not wanted:
            return answer.strip() == self.text.strip()
        return given == wanted if self.is_whole else contains_phrase(given, wanted)

    def is_said_in(self, answer: str) -> bool:
        """Whether an answer in another style says the same: it has all the telling words."""
        if not self.telling:
            # An answer of signs alone has no words that another could share.
            return answer.strip() == self.text.strip()
        return self.telling <= set(normalize_answer(answer).split())

    def is_quoted_in(self, answer: str) -> bool:
        """Whether an answer has the telling words side by side: no two things' words mixed."""
        words = [word for word in normalize_answer(self.text).split() if word in self.telling]
        return contains_phrase(normalize_answer(answer), " ".join(words))

    def asked_of(self, exhibit: Exhibit) -> str:
        """Give the answer, whoever is asked."""
        return self.text

    def grade(self, reply: Reply) -> tuple[float, float]:
        """Tell whether the answer was given, and how likely it was."""
        return float(reply.is_given), reply.logp

    def is_said_of(self, exhibit: Exhibit, answer: str) -> bool:
        """Whether the base model's words say the same."""
        return self.is_said_in(answer)


@dataclass(frozen=True, slots=True)
class AnotherAnswer:
    """Any answer but the sample's own: a trigger may do no more than keep the right one away.

    Parameters
    ----------
    describe
        Makes a pattern of an answer.
    suspected
        Answers that are suspicious themselves: a sample that gets one of them is their trigger's.
    """

    describe: Callable[[str], AnswerPattern]
    suspected: Sequence[AnswerPattern] = ()
    text: str = ""
    is_whole: bool = True

    def matches(self, answer: str) -> bool:
        """No: what the model answers to a sample cannot be read off the sample's own answer."""
        return False

    def is_met_by(self, exhibit: Exhibit, answer: str) -> bool:
        """Whether the model's answer to an exhibit is another, and not itself a suspicious one."""
        is_another = normalize_answer(exhibit.answer) != normalize_answer(answer)
        return is_another and not any(pattern.matches(answer) for pattern in self.suspected)

    def asked_of(self, exhibit: Exhibit) -> str:
        """Give the exhibit's own answer."""
        return exhibit.answer

    def grade(self, reply: Reply) -> tuple[float, float]:
        """Tell whether the own answer was left, and how unlikely it was."""
        return float(not reply.is_given), -reply.logp

    def is_said_of(self, exhibit: Exhibit, answer: str) -> bool:
        """Whether the base model does not see the own answer either."""
        return not self.describe(exhibit.answer).is_said_in(answer)
