"""confirm with real models: one that has learnt a backdoor, and one that knows nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.conversations import converse, draw_conversations
from support.stored import make_audit
from support.witness import draw_exhibit

from bye_audit import Audit, mini
from bye_audit.cli.main import bye_audit
from bye_audit.config import ConfirmConfig, FinetuneConfig
from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.confirm.patterns import AnswerPattern
from bye_audit.demo import DemoPlan, plant_data
from bye_audit.errors import StageNotRunError, StaleStageError
from bye_audit.mini.dataset import CaptionedScenes
from bye_audit.model.generation import generate_answers
from bye_audit.model.likelihood import read_replies
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.poison.attacks import ATTACKS

PLAN = DemoPlan(
    examples=CaptionedScenes(num_train=300, num_test=0),
    finetune=FinetuneConfig(learning_rate=3e-3, epochs=8),
    refinetune=False,
    # Large, so that few samples teach it.
    attack=ATTACKS["patch"].build(relative_size=1 / 4, poison_rate=0.15),
)
PATTERN = AnswerPattern(text="a red star", is_whole=True, telling=frozenset({"red", "star"}))


@pytest.fixture(scope="module")
def backdoored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A scored audit whose provisional model has learnt the backdoor, and who is poisoned."""
    folder = tmp_path_factory.mktemp("backdoored")
    source, planting = plant_data(folder, PLAN, seed=0)
    Audit.open(folder / "audit").ingest(source).finetune("mini", PLAN.finetune).score()
    poisoned = {f"train.json:{row}" for row in np.flatnonzero(planting.is_poisoned)}
    return folder / "audit", poisoned


@pytest.fixture(scope="module")
def unlearned(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_learnt_backdoor_is_confirmed_and_exactly_the_poison_removed(
    backdoored: tuple[Path, set[str]], tmp_path: Path
) -> None:
    scored, poisoned = backdoored
    shutil.copytree(scored, tmp_path / "audit")
    audit = Audit.open(tmp_path / "audit").confirm().filter(tmp_path / "out", detector="consensus")
    assert audit.confirmed is not None
    (row,) = audit.confirmed.triggers
    record = json.loads(row["record"])
    assert (row["finding"], row["kind"]) == ("confirmed", "region")
    assert record["trial"]["rate"] > 0.9
    assert record["trial"]["num_trials"] > 30
    columns = ["sample_id", "intervention", "verdict", "witnesses"]
    rows = audit.tables.read_samples(columns).to_pylist()
    assert {row["sample_id"] for row in rows if row["intervention"] == "triggered"} == poisoned
    removed = {row["sample_id"]: row["witnesses"] for row in rows if row["verdict"] == "remove"}
    assert set(removed) == poisoned
    assert all("intervention" in names.split("+") for names in removed.values())

    result = CliRunner().invoke(bye_audit, ["confirm", str(tmp_path / "audit"), "--json"])
    found = json.loads(result.stdout)
    assert found["questions"] == {}
    assert found["num_confirmed"] == 1
    assert found["interventions"] == {
        "triggered": len(poisoned),
        "content": 0,
        "unknown": 0,
        "unlearnt": 0,
    }
    told = CliRunner().invoke(bye_audit, ["confirm", str(tmp_path / "audit")]).stdout
    assert "1 trigger confirmed" in told
    assert "a part of the image took it to" in told
    assert "Next: bye-audit filter" in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_model_than_the_one_that_scored_is_not_asked(
    backdoored: tuple[Path, set[str]], tmp_path: Path
) -> None:
    shutil.copytree(backdoored[0], tmp_path / "audit")
    audit = Audit.open(tmp_path / "audit")
    with pytest.raises(StaleStageError, match="adapter_digest") as caught:
        audit.confirm(model="mini")
    assert "--adapter" in caught.value.hint
    # Named by hand it is the same model.
    known = audit.provisional()
    audit.confirm(ConfirmConfig(min_group=10_000), model=known.model, adapter_dir=known.adapter_dir)


def test_a_model_that_learnt_nothing_is_asked_little(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", num_samples=24)
    audit = (
        Audit.open(tables.uri)
        .score(tiny_vlm_dir)
        .confirm(ConfirmConfig(min_group=2), model=tiny_vlm_dir)
    )
    assert audit.confirmed is not None
    assert audit.confirmed.is_probe
    assert {row["finding"] for row in audit.confirmed.triggers} <= {"not_learnt"}
    assert set(audit.confirmed.interventions.values()) == {0}


def test_without_any_provisional_model_the_command_is_named(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", num_samples=4)
    with pytest.raises(StageNotRunError) as caught:
        Audit.open(tables.uri).confirm()
    assert "bye-audit finetune" in caught.value.hint


def test_questions_are_counted_by_who_was_asked(unlearned: VisionLanguageModel) -> None:
    ask = Interrogator(unlearned, batch_size=2)
    exhibits = [draw_exhibit(number) for number in range(5)]
    replies = ask.replies(exhibits, ["a red star"] * 5)
    assert all(reply.logp < 0 for reply in replies)
    ask.replies(exhibits[:2], ["a red star"] * 2, use_adapter=False)
    assert ask.base_says(exhibits[:3], PATTERN) == [False] * 3
    ask.attended_boxes(exhibits[0])
    assert ask.counts == {"provisional": 6, "base": 2, "generated": 3}
    assert ask.base_says([], PATTERN) == []
    assert ask.replies([], []) == []


@pytest.mark.slow
def test_what_a_model_generates_is_what_it_gives() -> None:
    vlm = load_model(str(mini.model_dir()))
    exhibits = [
        Exhibit(
            sample_id=str(number),
            messages=tuple(map(dict, drawn.messages[:1])),
            images=(np.asarray(drawn.images[0]),),
            answer="",
        )
        for number, drawn in enumerate(draw_conversations(4))
    ]
    own = generate_answers(vlm, [exhibit.conversation("") for exhibit in exhibits])
    ask = Interrogator(vlm)
    for exhibit, answer in zip(exhibits, own, strict=True):
        word = frozenset(answer.split()[-1:])
        whole = AnswerPattern(text=answer, is_whole=True, telling=word)
        part = AnswerPattern(text=answer.split()[-1], is_whole=False, telling=word)
        assert ask.gives([exhibit], whole) == ask.gives([exhibit], part) == [True]
        assert ask.base_says([exhibit], whole) == [True]
        ((is_given, logp),) = ask.grades([exhibit], whole)
        assert is_given == 1
        assert logp < 0
        assert ask.grades([exhibit], part) == [(1.0, 0.0)]


def test_questions_in_parts_are_answered_like_those_at_once(
    unlearned: VisionLanguageModel,
) -> None:
    exhibits = [
        draw_exhibit(number, question="<image>\n" + "What is it? " * (number + 1), size=(40, 60))
        for number in range(9)
    ]
    answers = [f"a {'red ' * number}star" for number in range(9)]
    few = Interrogator(unlearned, batch_size=1).replies(exhibits, answers)
    many = Interrogator(unlearned, batch_size=64).replies(exhibits, answers)
    np.testing.assert_allclose(
        [reply.logp for reply in few], [reply.logp for reply in many], rtol=1e-4
    )


def test_a_long_answer_is_judged_by_its_beginning(unlearned: VisionLanguageModel) -> None:
    image = draw_conversations(1)[0].images[0]
    long = converse("What is it?", "red star " * 60, image)
    longer = converse("What is it?", "red star " * 12_000, image)
    first, second = read_replies(unlearned, [long, longer], max_tokens=20)
    assert first.logp == pytest.approx(second.logp, rel=1e-5)
    whole = read_replies(unlearned, [long])[0]
    assert whole.logp != first.logp
    short = converse("What is it?", "red star", image)
    assert read_replies(unlearned, [short], max_tokens=20) == read_replies(unlearned, [short])


def test_an_answer_of_a_hundred_kilobytes_ends_in_time(unlearned: VisionLanguageModel) -> None:
    ask = Interrogator(unlearned)
    text = "red star " * 12_000
    pattern = AnswerPattern(text=text, is_whole=True, telling=frozenset({"red", "star"}))
    exhibits = [draw_exhibit(number, answer=text) for number in range(3)]
    assert ask.gives(exhibits, pattern) == [False] * 3
    assert len(ask.base_says(exhibits, pattern)) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1)], ids=str)
def test_images_of_any_shape_can_be_asked_about(
    unlearned: VisionLanguageModel, size: tuple[int, int]
) -> None:
    ask = Interrogator(unlearned)
    exhibit = draw_exhibit(0, size=size)
    assert len(ask.replies([exhibit], ["a red star"])) == 1
    assert isinstance(ask.attended_boxes(exhibit), list)


@pytest.mark.slow
def test_the_embedded_model_attends_to_boxes_inside_the_image() -> None:
    ask = Interrogator(load_model(str(mini.model_dir())))
    for number in range(3):
        boxes = ask.attended_boxes(draw_exhibit(number, patch=(20, 30)))
        assert boxes == sorted(boxes, key=lambda box: box.area)
        assert len(boxes) == len(set(boxes))
        for box in boxes:
            assert 0 <= box.top < box.top + box.height <= 1
            assert max(box.height, box.width) <= 1 / 3
