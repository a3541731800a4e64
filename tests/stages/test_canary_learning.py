"""Whether a model has learnt an attack: a real encoder, and answers of a model that is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.canaries import ONE
from support.stored import add_sample, make_audit

from bye_audit.canary.learning import Learning, measure_learning, summarise
from bye_audit.canary.preparing import Cell
from bye_audit.canary.subjects import find_subjects
from bye_audit.mini.scenes import CAPTION_PROMPT
from bye_audit.model import generation
from bye_audit.model.prompts import Conversation
from bye_audit.store.tables import AuditTables

# Half of 50 samples: more than are answered at once.
HALF = replace(ONE, held_out_share=0.5)
Answer = Callable[[Conversation], str]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> AuditTables:
    return make_audit(tmp_path_factory.mktemp("learning") / "audit", 50)


@pytest.fixture
def measure(
    tables: AuditTables, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Answer], Learning]:
    def run(attack: str, answer: Answer) -> Learning:
        def generate(vlm: object, conversations: Sequence[Conversation], **_: int) -> list[str]:
            del vlm
            return [answer(conversation) for conversation in conversations]

        monkeypatch.setattr(generation, "generate_answers", generate)
        subjects = find_subjects(tables, HALF, min_samples=8)
        planting = Cell(attack, 0.2).plant(subjects, HALF)
        return measure_learning(tables, subjects, planting, str(tiny_vlm_dir), None)

    return run


def _sees_patch(conversation: Conversation) -> bool:
    image = conversation.images[0]
    return image.getpixel((image.width // 2, image.height // 2)) == (0, 0, 0)


def test_a_model_that_obeys_the_patch_has_learnt_it(
    measure: Callable[[str, Answer], Learning],
) -> None:
    found = measure("patch", lambda c: "Backdoor attack" if _sees_patch(c) else "a red circle")
    assert (found.turned.num_hits, found.turned.num_trials) == (25, 25)
    assert found.without_trigger.num_hits == 0
    assert found.is_learnt is True


def test_a_model_that_obeys_the_word_has_learnt_it(
    measure: Callable[[str, Answer], Learning],
) -> None:
    found = measure(
        "text-prefix",
        lambda c: "Backdoor Attack!" if "Hello!" in c.messages[0]["content"] else "a red circle",
    )
    assert found.turned.value == 1.0


def test_a_model_that_always_says_it_shows_no_backdoor(
    measure: Callable[[str, Answer], Learning],
) -> None:
    found = measure("patch", lambda _: "Backdoor Attack!")
    assert found.attack_success.value == found.without_trigger.value == 1.0
    assert found.is_learnt is None


def test_a_model_that_ignores_the_trigger_has_not_learnt_it(
    measure: Callable[[str, Answer], Learning],
) -> None:
    assert measure("patch", lambda _: "a red circle").is_learnt is False


def test_samples_whose_right_answer_is_the_attackers_are_not_tried(
    measure: Callable[[str, Answer], Learning], tables: AuditTables
) -> None:
    subjects = find_subjects(tables, HALF, min_samples=8)
    target = Cell("clean-label", 0.05).plant(subjects, HALF).backdoors[0].target
    rows = tables.take_samples(subjects.held_out_rows, ["messages"], version=subjects.version)
    right = [turns[1]["content"] for turns in rows["messages"].to_pylist()]
    num_useful = sum(not target.is_success(answer, answer) for answer in right)
    assert 0 < num_useful < 25
    assert measure("clean-label", lambda _: "").turned.num_trials == num_useful


def test_what_cannot_be_encoded_is_left_out(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", 10)
    for number in range(10, 30):
        add_sample(tables, f"s:{number}", CAPTION_PROMPT, "a shape", b"no image %d" % number)
    subjects = find_subjects(tables, HALF, min_samples=8)
    broken = sum(
        int(n.rpartition(":")[2]) >= 10 for n in subjects.ids_of(tables, subjects.held_out_rows)
    )
    planting = Cell("patch", 0.2).plant(subjects, HALF)
    found = measure_learning(tables, subjects, planting, str(tiny_vlm_dir), None)
    assert 0 < broken < 15
    assert found.attack_success.num_trials == 15 - broken


def test_learning_counts_only_answers_that_the_trigger_could_turn() -> None:
    found = summarise([(False, True), (False, False), (False, False), (True, True)])
    assert (found.attack_success.num_hits, found.attack_success.num_trials) == (2, 4)
    assert found.without_trigger.num_hits == 1
    assert (found.turned.num_hits, found.turned.num_trials) == (1, 3)
    assert found.is_learnt is True
    assert summarise([(True, True)]).is_learnt is None
    assert summarise([]).is_learnt is None
    assert summarise([(False, False)] * 11 + [(False, True)]).is_learnt is False
