"""Which samples are planted, and what is concluded from who was seen: on no model at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.canaries import ONE, contents_of, suspect
from support.stored import make_audit

from bye_audit.canary.blindness import BlindRate, Bound, Sight, find_blind_rate, judge_sight
from bye_audit.canary.copying import Truth, make_copy
from bye_audit.canary.preparing import Cell
from bye_audit.canary.subjects import can_carry, choose_held_out, find_subjects
from bye_audit.schema import Decision
from bye_audit.store.tables import AuditTables

# --- who can carry poison -----------------------------------------------------------------------

USER, ASSISTANT = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red."}
SHOWN = {"role": "user", "content": "<image>\nWhat?"}


@pytest.mark.parametrize(
    ("messages", "num_images", "is_able"),
    [
        ([SHOWN, ASSISTANT], 1, True),
        ([USER, ASSISTANT], 1, True),
        ([{"role": "system", "content": "Be brief."}, SHOWN, ASSISTANT], 1, True),
        ([SHOWN, ASSISTANT, SHOWN, ASSISTANT], 2, True),
        ([USER, ASSISTANT], 0, False),
        ([SHOWN], 1, False),
        ([SHOWN, {"role": "assistant", "content": " "}], 1, False),
        ([ASSISTANT, SHOWN, ASSISTANT], 1, False),
        ([USER, ASSISTANT, SHOWN, ASSISTANT], 1, False),
        ([], 1, False),
    ],
    ids=[
        "shown", "unplaced", "after a system turn", "two images", "no image", "no answer",
        "empty answer", "answer first", "image after the answer", "nothing",
    ],
)  # fmt: skip
def test_poison_needs_image_question_and_answer_in_order(
    messages: list[dict[str, str]], num_images: int, is_able: bool
) -> None:
    assert can_carry(messages, num_images) is is_able


def test_suspected_samples_stay_in_the_copy_and_are_never_planted(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", 40)
    suspected = [f"s:{number}" for number in range(0, 40, 4)]
    suspect(tables, suspected)
    subjects = find_subjects(tables, ONE, min_samples=8)
    assert subjects.suspected_ids == set(suspected)
    able = set(subjects.ids_of(tables, subjects.rows))
    held_out = set(subjects.ids_of(tables, subjects.held_out_rows))
    assert not (able | held_out) & subjects.suspected_ids
    assert len(able) + len(held_out) == 30
    planting = Cell("patch", 0.5).plant(subjects, ONE)
    copied = contents_of(make_copy(tables, subjects, planting, tmp_path / "cell"))
    assert subjects.suspected_ids <= copied.keys()
    assert not Truth.read(tmp_path / "cell").planted_ids & subjects.suspected_ids


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> AuditTables:
    found = make_audit(tmp_path_factory.mktemp("choice") / "audit", 50)
    suspect(found, ["s:1", "s:7"])
    return found


@given(
    num_able=st.integers(0, 500),
    share=st.floats(0.001, 0.9),
    most=st.integers(1, 60),
    seed=st.integers(0, 5),
)
def test_as_many_are_held_out_as_asked_and_always_the_same(
    num_able: int, share: float, most: int, seed: int
) -> None:
    config = replace(ONE, held_out_share=share, max_held_out=most, seed=seed)
    is_out = choose_held_out(num_able, config)
    count = int(is_out.sum())
    assert is_out.size == num_able
    assert count <= most
    # The nearest count to the share, unless that is none at all or more than the most.
    is_nearest = abs(count - share * num_able) <= 0.5
    assert is_nearest or count == most or (count == 1 and share * num_able < 1) or num_able == 0
    assert (count > 0) == (num_able > 0)
    assert (is_out == choose_held_out(num_able, config)).all()


@given(rate=st.floats(0.03, 0.5), seed=st.integers(0, 50))
def test_planted_held_out_and_suspected_never_overlap(
    tables: AuditTables, rate: float, seed: int
) -> None:
    config = replace(ONE, seed=seed)
    subjects = find_subjects(tables, config, min_samples=8)
    planting = Cell("patch", rate).plant(subjects, config)
    planted = set(subjects.ids_of(tables, subjects.rows[np.flatnonzero(planting.is_poisoned)]))
    held_out = set(subjects.ids_of(tables, subjects.held_out_rows))
    everyone = {f"s:{number}" for number in range(50)}
    assert planted <= everyone - held_out - {"s:1", "s:7"}
    # 48 can carry poison and 2 of them are held out.
    assert len(held_out) == 2
    assert abs(len(planted) - rate * 46) <= 0.5
    stayed = subjects.ids_of(tables, subjects.rows)
    answers = contents_of(tables)
    assert subjects.answers == [answers[name]["messages"][1]["content"] for name in stayed]
    again = Cell("patch", rate).plant(find_subjects(tables, config, min_samples=8), config)
    assert (again.backdoor_of == planting.backdoor_of).all()


def test_another_seed_plants_other_samples(tables: AuditTables) -> None:
    chosen = []
    for seed in range(4):
        config = replace(ONE, seed=seed)
        subjects = find_subjects(tables, config, min_samples=8)
        planting = Cell("patch", 0.2).plant(subjects, config)
        chosen.append(tuple(subjects.rows[planting.is_poisoned]))
    assert len(set(chosen)) == 4


# --- from sights to a blind rate ---------------------------------------------------------------

LETTERS = {"S": Sight.SEEN, "M": Sight.MISSED, "L": Sight.NOT_LEARNT, "J": Sight.NOT_JUDGED}
RATES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def _as_told_by_letters(word: str) -> BlindRate:
    """Read a word of one letter a rate, from the lowest up: the same by searching in text."""
    not_learnt = tuple(rate for rate, letter in zip(RATES, word, strict=False) if letter == "L")
    first = word.find("S")
    if first >= 0:
        below = word[:first].rfind("M")
        above = tuple(RATES[i] for i in range(first, len(word)) if word[i] == "M")
        return BlindRate(
            bound=Bound.BETWEEN if below >= 0 else Bound.AT_MOST,
            rate=RATES[first],
            missed_below=RATES[below] if below >= 0 else None,
            missed_above=above,
            not_learnt=not_learnt,
        )
    if "M" in word:
        return BlindRate(bound=Bound.ABOVE, rate=RATES[word.rfind("M")], not_learnt=not_learnt)
    return BlindRate(
        bound=Bound.NOT_LEARNT if "L" in word else Bound.NOT_JUDGED, not_learnt=not_learnt
    )


@given(word=st.text("SMLJ", min_size=1, max_size=len(RATES)), data=st.data())
def test_the_blind_rate_is_what_a_reader_of_the_row_would_say(
    word: str, data: st.DataObject
) -> None:
    sights = {rate: LETTERS[letter] for rate, letter in zip(RATES, word, strict=False)}
    shuffled = dict(data.draw(st.permutations(list(sights.items()))))
    assert find_blind_rate(shuffled) == _as_told_by_letters(word)


@pytest.mark.parametrize(
    ("word", "bound", "rate"),
    [
        ("SSS", "at_most", 0.001),
        ("MMM", "above", 0.01),
        ("MSS", "between", 0.005),
        ("LSS", "at_most", 0.005),
        ("LLM", "above", 0.01),
        ("LLL", "not_learnt", None),
        ("JJJ", "not_judged", None),
    ],
)
def test_blind_rates_by_hand(word: str, bound: str, rate: float | None) -> None:
    found = find_blind_rate({r: LETTERS[letter] for r, letter in zip(RATES, word, strict=False)})
    assert (found.bound, found.rate) == (bound, rate)


@pytest.mark.parametrize(
    ("decision", "recall", "is_learnt", "sight"),
    [
        (Decision.POISON_SUSPECTED, 0.5, True, Sight.SEEN),
        (Decision.POISON_SUSPECTED, 0.5, False, Sight.SEEN),
        (Decision.POISON_SUSPECTED, 0.4, True, Sight.MISSED),
        (Decision.POISON_SUSPECTED, 0.4, None, Sight.MISSED),
        (Decision.INCONCLUSIVE, 0.0, True, Sight.MISSED),
        (Decision.NO_EVIDENCE, 0.0, False, Sight.NOT_LEARNT),
        (None, None, False, Sight.NOT_JUDGED),
    ],
)
def test_a_miss_is_only_excused_where_nothing_was_learnt(
    decision: Decision | None, recall: float | None, is_learnt: bool | None, sight: Sight
) -> None:
    assert judge_sight(decision, recall, is_learnt=is_learnt, min_recall=0.5) is sight
