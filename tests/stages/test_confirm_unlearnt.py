"""Shared answers that the model has not learnt are told from a model that has learnt little."""

from __future__ import annotations

from support.witness import ORDINARY, TARGET, ScriptedWitness, draw_exhibit

from bye_audit.confirm.exhibits import Exhibit
from bye_audit.confirm.unlearnt import NUM_CONTROLS, find_unlearnt
from bye_audit.schema import Intervention

SUSPECTS = [draw_exhibit(number, answer=TARGET) for number in range(30)]
OTHERS = [draw_exhibit(number, answer=ORDINARY) for number in range(100, 140)]


def always_ordinary(_: Exhibit) -> str:
    return ORDINARY


def test_suspects_that_never_get_their_answer_are_unlearnt() -> None:
    witness = ScriptedWitness(speak=always_ordinary)
    found = find_unlearnt(SUSPECTS, OTHERS, witness)
    assert [sample.sample_id for sample in found] == [each.sample_id for each in SUSPECTS]
    assert {sample.intervention for sample in found} == {Intervention.UNLEARNT}
    assert witness.counts.total() == NUM_CONTROLS + len(SUSPECTS)


def test_a_model_that_misses_other_answers_too_says_nothing_about_these() -> None:
    witness = ScriptedWitness(speak=lambda _: "?")
    assert find_unlearnt(SUSPECTS, OTHERS, witness) == []
    assert find_unlearnt(SUSPECTS, [], witness) == []


def test_an_answer_that_some_get_is_one_that_is_being_learnt() -> None:
    learnt = {each.sample_id for each in SUSPECTS[:4]}
    witness = ScriptedWitness(speak=lambda each: TARGET if each.sample_id in learnt else ORDINARY)
    assert find_unlearnt(SUSPECTS, OTHERS, witness) == []
    few = {SUSPECTS[0].sample_id}
    witness = ScriptedWitness(speak=lambda each: TARGET if each.sample_id in few else ORDINARY)
    found = {sample.sample_id for sample in find_unlearnt(SUSPECTS, OTHERS, witness)}
    assert found == {each.sample_id for each in SUSPECTS} - few
