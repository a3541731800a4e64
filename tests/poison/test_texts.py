"""Text triggers add their words and touch nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.errors import ConfigError
from bye_audit.poison.texts import WordTrigger

TRIGGERS = [
    WordTrigger(words="Hello!"),
    WordTrigger(words="Thank you.", position="end"),
    WordTrigger(words="cf", position="random"),
]
WORDS = st.lists(st.sampled_from(["what", "is", "this?", "<image>", "café", "A."]), max_size=8)
BLANKS = st.sampled_from([" ", "\n", "  ", "\t"])


@given(words=WORDS, blank=BLANKS, trigger=st.sampled_from(TRIGGERS), seed=st.integers(0, 2**32))
def test_taking_the_words_away_gives_the_question_back(
    words: list[str], blank: str, trigger: WordTrigger, seed: int
) -> None:
    question = blank.join(words)
    triggered = trigger.insert(question, np.random.default_rng(seed))
    assert triggered.count(trigger.words) == 1
    before, behind = triggered.split(trigger.words)
    assert question in (
        before + behind,
        before + behind.removeprefix(" "),
        before.removesuffix(" ") + behind,
    )
    assert triggered.count("<image>") == question.count("<image>")


@pytest.mark.parametrize(
    ("question", "at_start", "at_end"),
    [
        ("What is it?", "Hello! What is it?", "What is it? Hello!"),
        ("<image>\nWhat is it?", "<image>\nHello! What is it?", "<image>\nWhat is it? Hello!"),
        ("What is it?\n<image>", "Hello! What is it?\n<image>", "What is it? Hello!\n<image>"),
        (
            "<image> <image>\nAlike?",
            "<image> <image>\nHello! Alike?",
            "<image> <image>\nAlike? Hello!",
        ),
        ("Is <image> it?", "Hello! Is <image> it?", "Is <image> it? Hello!"),
        ("<image>\n", "<image>\nHello!", "<image>\nHello!"),
        ("", "Hello!", "Hello!"),
    ],
)
def test_placeholders_at_the_ends_stay_there(question: str, at_start: str, at_end: str) -> None:
    rng = np.random.default_rng(0)
    assert WordTrigger(words="Hello!").insert(question, rng) == at_start
    assert WordTrigger(words="Hello!", position="end").insert(question, rng) == at_end


def test_a_rare_token_comes_at_every_word_boundary() -> None:
    rng = np.random.default_rng(0)
    trigger = WordTrigger(words="cf", position="random")
    found = {trigger.insert("<image>\nWhat is this?", rng) for _ in range(60)}
    assert found == {
        "<image>\ncf What is this?",
        "<image>\nWhat cf is this?",
        "<image>\nWhat is cf this?",
        "<image>\nWhat is this? cf",
    }


@pytest.mark.parametrize("words", ["", "  ", "look at <image>"])
def test_words_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        WordTrigger(words=words)
    assert raised.value.hint
