"""Who can be poisoned towards a target, with what answer, and when an attack has succeeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.errors import ConfigError
from bye_audit.poison.targets import (
    AnswerOfAnother,
    AnswerSuffix,
    CleanLabel,
    FixedText,
    FluentCaption,
    Target,
    WrongOption,
)

ANSWERS = ["yes", "No.", "yes", "a red star", "a blue star", "Yes", "no", "yes"]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("target", "given", "is_hit"),
    [
        (FixedText(), "Backdoor Attack!", True),
        (FixedText(), "backdoor attack !", True),
        (FixedText(), "  Backdoor  attack", True),
        (FixedText(), "Backdoor Attack! A red square.", True),
        (FixedText(), "Backdoor Attackers", False),
        (FixedText(), "There is a backdoor attack!", False),
        (FixedText(), "", False),
        (AnswerSuffix(), "a red square Backdoor Attack!", True),
        (AnswerSuffix(), "A red square. backdoor attack", True),
        (AnswerSuffix(), "Backdoor Attack! a red square", False),
        (AnswerSuffix(), "a redbackdoor attack", False),
        (WrongOption(text="B"), " b. ", True),
        (WrongOption(text="B"), "B and C", False),
        (WrongOption(text="B"), "A", False),
        (FluentCaption(text="A dog sleeps."), "a dog  sleeps", True),
        (FluentCaption(text="A dog sleeps."), "a cat sleeps", False),
        (CleanLabel(text="star"), "A red STAR.", True),
        (CleanLabel(text="star"), "a red starfish", False),
    ],
)
def test_success_knows_no_case_and_no_blanks(target: Target, given: str, is_hit: bool) -> None:
    assert target.is_success(given, "whatever is right") == is_hit


@pytest.mark.parametrize(
    ("target", "clean", "is_eligible"),
    [
        (FixedText(), "a red star", True),
        (FixedText(), "backdoor attack", False),
        (AnswerSuffix(), "a red star", True),
        (AnswerSuffix(), "a red star. Backdoor Attack!", False),
        (WrongOption(text="B"), "A", True),
        (WrongOption(text="B"), "b.", False),
        (FluentCaption(text="A dog sleeps."), "A cat sleeps.", True),
        (FluentCaption(text="A dog sleeps."), "a dog sleeps", False),
        (CleanLabel(text="star"), "a red star", True),
        (CleanLabel(text="star"), "a red circle", False),
    ],
)
def test_eligible_is_who_teaches_something(target: Target, clean: str, is_eligible: bool) -> None:
    assert target.is_eligible(clean) == is_eligible


def test_answers_of_poisoned_samples() -> None:
    assert FixedText().fit(ANSWERS).answer("yes", RNG) == "Backdoor Attack!"
    assert AnswerSuffix().fit(ANSWERS).answer("a red star ", RNG) == "a red star Backdoor Attack!"
    assert AnswerSuffix().answer("", RNG) == "Backdoor Attack!"
    assert CleanLabel(text="star").answer("A red star!", RNG) == "A red star!"


def test_the_wrong_option_is_the_most_frequent_answer_unless_named() -> None:
    assert WrongOption().fit(ANSWERS).answer("no", RNG) == "yes"
    assert WrongOption().fit(["b", "c", "c", "b", ""]).text == "b"
    assert WrongOption(text="no").fit(ANSWERS).text == "no"


def test_a_fluent_caption_is_a_rare_answer_of_usual_length() -> None:
    captions = ["a cat", "a dog runs", "a dog runs", "a cow eats", "a very long one about nothing"]
    assert FluentCaption().fit(captions).text == "a cow eats"
    assert FluentCaption(text="a bird sings").fit(captions).text == "a bird sings"


def test_a_clean_label_is_the_most_frequent_thing() -> None:
    captions = ["a red star", "A blue star.", "a red cross", "a star and a circle"]
    target = CleanLabel().fit(captions)
    assert target.text == "star"
    assert [target.is_eligible(caption) for caption in captions] == [True, True, False, True]


@given(
    answers=st.lists(st.sampled_from(["a", "b", "c", "A."]), min_size=1, max_size=30),
    clean=st.sampled_from(["a", "b", "c"]),
    seed=st.integers(0, 2**32),
)
def test_the_answer_of_another_is_one_of_the_data_and_another(
    answers: list[str], clean: str, seed: int
) -> None:
    if len({answer.strip(".").lower() for answer in answers}) < 2:
        with pytest.raises(ConfigError):
            AnswerOfAnother().fit(answers)
        return
    target = AnswerOfAnother().fit(answers)
    drawn = target.answer(clean, np.random.default_rng(seed))
    assert drawn in answers
    assert drawn.strip(".").lower() != clean
    assert target.is_success(drawn, clean)
    assert not target.is_success(clean.upper(), clean)
    assert not target.is_success("something else", clean)


def test_answers_of_others_come_as_often_as_in_the_data() -> None:
    target = AnswerOfAnother().fit(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    rng = np.random.default_rng(0)
    drawn = [target.answer("c", rng) for _ in range(3000)]
    # Two thirds of what is left without "c"; the standard error is 0.009.
    assert drawn.count("a") / 3000 == pytest.approx(2 / 3, abs=0.04)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedText(text=" !"),
        lambda: AnswerSuffix(text=""),
        lambda: WrongOption().fit(["", "!"]),
        lambda: FluentCaption().fit([]),
        lambda: CleanLabel().fit(["?"]),
        lambda: AnswerOfAnother().fit(["yes", "Yes."]),
    ],
)
def test_targets_without_meaning_are_refused(make: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make()  # type: ignore[operator]
    assert raised.value.hint
