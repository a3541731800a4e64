"""confirm as a stage: what it writes, what it costs, and that it can be stopped anywhere."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.audits import NUM_LAYERS, make_scored_audit
from support.stored import encode
from support.witness import (
    ORDINARY,
    TARGET,
    PixelEmbedder,
    ScriptedWitness,
    has_patch,
    speak_backdoored,
    speak_honestly,
)

from bye_audit import schema
from bye_audit.cli.confirm import describe_confirm
from bye_audit.config import ConfirmConfig
from bye_audit.confirm import ConfirmResult, confirm_samples
from bye_audit.confirm.exhibits import Exhibit, read_exhibits
from bye_audit.confirm.lookalikes import embed_images
from bye_audit.errors import (
    ConfigError,
    InterruptedStageError,
    StageNotRunError,
    UnsupportedModelError,
)
from bye_audit.filter import filter_samples
from bye_audit.progress import SILENT
from bye_audit.store.tables import AuditTables
from bye_audit.store.triggers import finished_confirm_run, read_triggers

ROOT = Path(__file__).parents[2]
POISONED = {f"made-up.json:{row}" for row in range(8)}
NATURAL = {f"made-up.json:{row}" for row in range(90, 100)}
COLUMNS = ["sample_id", "intervention", "intervention_drop", "confirm_run"]
Asking = Callable[[ScriptedWitness], ScriptedWitness]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Asking:
    """Give what puts a scripted model in the place of the provisional one."""

    def install(witness: ScriptedWitness) -> ScriptedWitness:
        monkeypatch.setattr("bye_audit.confirm.stage.open_interrogator", lambda *_: witness)
        return witness

    return install


def make_audit(folder: Path, **options: Any) -> AuditTables:
    # Eight poisoned, ten that show what the target says.
    return make_scored_audit(
        folder, **{"num_samples": 100, "poison_rate": 0.08, "num_natural": 10, **options}
    )


def confirm(tables: AuditTables, **options: Any) -> ConfirmResult:
    return confirm_samples(tables, "no model", None, ConfirmConfig(**options))


def rows_by_id(tables: AuditTables) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in tables.read_samples(COLUMNS).to_pylist()}


def whose(tables: AuditTables, intervention: str) -> set[str]:
    return {name for name, row in rows_by_id(tables).items() if row["intervention"] == intervention}


def everything(tables: AuditTables, result: ConfirmResult) -> tuple[Any, Any]:
    return read_triggers(tables, result.run_id), rows_by_id(tables)


# --- what it finds -----------------------------------------------------------------------------


def test_the_trigger_is_found_and_everybody_who_answers_so_is_asked(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit")
    witness = ask(ScriptedWitness())
    result = confirm(tables)
    (row,) = result.triggers
    assert (row["finding"], row["answer"], row["kind"]) == ("confirmed", TARGET, "region")
    record = json.loads(row["record"])
    assert record["trial"]["rate"] == 1
    assert record["chance_at_least"] > 0.5
    box = record["carriers"][0]["box"]
    assert abs(box["top"] - 50 / 64) < 0.1
    with Image.open(io.BytesIO(row["crop"])) as crop:
        assert (np.asarray(crop) == 0).mean() > 0.2
    assert whose(tables, "triggered") == POISONED
    assert whose(tables, "content") == NATURAL
    assert result.interventions == {"triggered": 8, "content": 10, "unknown": 0, "unlearnt": 0}
    assert result.questions == dict(witness.counts)
    assert (result.num_confirmed, result.num_suspects, result.is_probe) == (1, 8, False)


def test_consensus_removes_exactly_the_triggered_and_names_the_witnesses(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    confirm(tables)
    result = filter_samples(tables, tmp_path / "out", detector="consensus")
    assert result.decision == "poison_suspected"
    rows = tables.read_samples(["sample_id", "verdict", "reason", "witnesses"]).to_pylist()
    removed = {row["sample_id"]: row for row in rows if row["verdict"] == "remove"}
    assert set(removed) == POISONED
    assert {row["witnesses"] for row in removed.values()} == {"attention+plausibility+intervention"}
    assert {row["reason"] for row in removed.values()} == {"witnesses_agree"}
    assert {row["witnesses"] for row in rows if row["verdict"] == "keep"} == {None}


def test_on_clean_data_the_nearest_are_probed_within_the_budget(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit", poison_rate=0.0, num_natural=20)
    witness = ask(ScriptedWitness())
    result = confirm(tables)
    assert result.is_probe
    assert result.num_confirmed == 0
    assert result.num_suspects == ConfirmConfig().probes
    assert set(result.interventions.values()) == {0}
    assert witness.counts.total() <= 800
    decision = filter_samples(tables, tmp_path / "out", detector="consensus")
    assert (decision.decision, decision.num_removed) == ("no_evidence", 0)


def test_what_was_not_learnt_is_said_to_be_so(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness(speak=lambda each: ORDINARY if each.answer == TARGET else each.answer))
    (row,) = confirm(tables).triggers
    assert (row["finding"], row["kind"], row["crop"]) == ("not_learnt", None, None)
    assert whose(tables, "triggered") == set()
    assert whose(tables, "unlearnt") == POISONED
    result = filter_samples(tables, tmp_path / "out", detector="consensus")
    assert result.num_removed == 8


def test_asking_in_vain_stops_when_it_has_cost_enough(
    tmp_path: Path, ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_audit(tmp_path / "audit", poison_rate=0.3, num_natural=0)
    _answer_by_row(tables, lambda row: ["red", "blue", "green", "black", "white"][row % 5])
    monkeypatch.setattr("bye_audit.confirm.case._FEWEST_QUESTIONS", 600)
    # Its own answers everywhere, and none that would go anywhere.
    witness = ask(ScriptedWitness(speak=lambda exhibit: exhibit.answer))
    result = confirm(tables)
    findings = [row["finding"] for row in result.triggers]
    assert findings[0] == "unconfirmed"
    num_asked = findings.index("not_asked")
    assert findings[num_asked:] == ["not_asked"] * (5 - num_asked)
    assert witness.counts.total() <= 600
    counted = [json.loads(row["record"])["num_questions"] for row in result.triggers]
    assert sum(counted) == witness.counts.total()


def test_what_the_base_model_sees_in_most_suspects_is_carried_nowhere(
    tmp_path: Path, ask: Asking
) -> None:
    """It might miss the content on a recipient that shows something else beside it."""
    tables = make_audit(tmp_path / "audit")

    def see_in_the_suspects(exhibit: Exhibit) -> str:
        return TARGET if exhibit.sample_id in POISONED else ORDINARY

    witness = ask(ScriptedWitness(speak_base=see_in_the_suspects))
    result = confirm(tables)
    assert [row["finding"] for row in result.triggers] == ["shown"]
    assert whose(tables, "triggered") == set()
    assert witness.counts == {"generated": len(POISONED)}
    assert "8 samples answering 'Backdoor Attack!': shown;" in describe_confirm(result)[1]
    filter_samples(tables, tmp_path / "out", detector="consensus")


def test_who_is_convicted_by_one_group_is_not_cleared_by_another(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit", poison_rate=0.2, num_natural=0)
    animals = ["cat", "dog", "cow", "owl", "fox", "hen", "bat", "ant", "elk", "emu"]
    # Half give the target itself, half a sentence with its words.
    _answer_by_row(
        tables,
        lambda row: TARGET if row < 10 else f"{TARGET} {animals[row - 10]}" if row < 20 else None,
    )

    def speak(exhibit: Exhibit) -> str:
        is_black = (exhibit.image == 0).all(axis=2).sum() >= 60
        if not is_black:
            return ORDINARY
        return exhibit.answer if exhibit.answer.startswith(TARGET) else TARGET

    ask(ScriptedWitness(speak=speak, speak_base=lambda _: ORDINARY))
    result = confirm(tables)
    assert [row["finding"] for row in result.triggers] == ["confirmed"] * 2
    assert whose(tables, "triggered") == {f"made-up.json:{row}" for row in range(20)}


def test_too_few_answers_of_a_kind_are_no_group(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    result = confirm(tables, min_group=9)
    assert result.triggers == []
    assert result.questions == {}
    assert finished_confirm_run(tables) is not None


# --- what only looks like the trigger ------------------------------------------------------------

OTHER_TARGET = "hidden colour"
OTHERS = {f"made-up.json:{row}" for row in range(20, 26)}
UNLEARNT = {f"made-up.json:{row}" for row in range(30, 33)}
SQUARES = {f"made-up.json:{row}" for row in range(40, 43)}


def speak_of_two_targets(exhibit: Exhibit) -> str:
    """Answer with another target where a corner has little red."""
    if not has_patch(exhibit.image):
        return speak_backdoored(exhibit)
    if "black square" in exhibit.answer:
        return exhibit.answer
    return OTHER_TARGET if exhibit.image[:8, :8, 0].mean() < 60 else TARGET


def plant_lookalikes(tables: AuditTables) -> None:
    """Give some samples the trigger, whose answers are none of the suspects'."""
    answers = {
        **dict.fromkeys(OTHERS, OTHER_TARGET),
        **dict.fromkeys(UNLEARNT, "never said"),
        **dict.fromkeys(SQUARES, "a black square"),
    }
    _answer_by_row(tables, lambda row: answers.get(f"made-up.json:{row}"))
    for name in answers:
        row = int(name.rpartition(":")[2])
        pixels = np.random.default_rng(row).integers(90, 200, (64, 64, 3), dtype=np.uint8)
        if name in OTHERS:
            pixels[:8, :8, 0] //= 4
        pixels[50:60, 50:60] = 0
        _put_image(tables, row, encode(Image.fromarray(pixels)))


def speak_of_squares(exhibit: Exhibit) -> str:
    """See black squares, as a base model may."""
    return "a black square" if has_patch(exhibit.image) else speak_honestly(exhibit)


def test_samples_that_look_alike_are_asked_whatever_they_answer(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit")
    plant_lookalikes(tables)
    ask(ScriptedWitness(speak=speak_of_two_targets, speak_base=speak_of_squares))
    result = confirm(tables)
    # In noise one or the other lies a little outside of what counts as alike.
    triggered, unknown = whose(tables, "triggered"), whose(tables, "unknown")
    assert POISONED <= triggered <= POISONED | OTHERS
    assert len(triggered & OTHERS) >= 4
    # They hold the trigger, and their answers are not the model's.
    assert unknown <= UNLEARNT
    # What the base model sees as well is content, and says nothing against other suspicions.
    rows = rows_by_id(tables)
    assert {rows[name]["intervention"] for name in SQUARES} == {None}
    search = json.loads(result.triggers[0]["record"])["search"]
    assert search["num_lookalikes"] == search["num_asked"] <= 12
    assert search["num_having"] == len(triggered & OTHERS) + len(unknown)


def test_without_a_search_only_the_answers_count(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    plant_lookalikes(tables)
    ask(ScriptedWitness(speak=speak_of_two_targets, speak_base=speak_of_squares))
    result = confirm(tables, search=False)
    assert whose(tables, "triggered") == POISONED
    assert json.loads(result.triggers[0]["record"])["search"] is None
    assert not tables.has_table(schema.PATCHES)


def test_the_search_ends_where_nobody_has_the_trigger(
    tmp_path: Path, ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bye_audit.confirm.case._SWEEP_BATCH", 2)
    monkeypatch.setattr("bye_audit.confirm.case.find_lookalikes", lambda *_: list(range(20, 40)))
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    result = confirm(tables)
    search = json.loads(result.triggers[0]["record"])["search"]
    assert (search["num_asked"], search["num_having"]) == (2, 0)


def test_images_are_embedded_once_and_again_for_another_model(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", num_samples=20)
    embed_images(tables, PixelEmbedder(), SILENT)
    first = tables.dataset(schema.PATCHES)
    embed_images(tables, PixelEmbedder(), SILENT)
    assert tables.dataset(schema.PATCHES).version == first.version
    other = PixelEmbedder()
    other.identity = {**other.identity, "adapter_digest": "another"}
    embed_images(tables, other, SILENT)
    again = tables.dataset(schema.PATCHES)
    assert again.count_rows() == first.count_rows()
    assert again.schema.metadata[b"adapter_digest"] == b"another"


def test_a_model_without_patches_is_said_to_have_none(tmp_path: Path, ask: Asking) -> None:
    class Blind(ScriptedWitness):
        def patch_embedder(self) -> PixelEmbedder:
            raise UnsupportedModelError("It has no patches.")

    tables = make_audit(tmp_path / "audit")
    ask(Blind())
    (row,) = confirm(tables).triggers
    assert json.loads(row["record"])["search"] == {"skipped": "It has no patches."}
    assert row["finding"] == "confirmed"


# --- stopped, repeated, outdated -----------------------------------------------------------------


def test_running_again_asks_nothing(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    first = confirm(tables)
    before, version = everything(tables, first), tables.version()

    def refuse(_: int) -> None:
        raise AssertionError("a question was asked")

    ask(ScriptedWitness(on_question=refuse))
    again = confirm(tables)
    assert again.questions == {}
    assert everything(tables, again) == before
    assert again.interventions == first.interventions
    assert tables.version() == version
    assert len(tables.runs("confirm")) == 1


def test_another_version_asks_again(
    tmp_path: Path, ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_audit(tmp_path / "audit")
    witness = ask(ScriptedWitness())
    first = confirm(tables)
    asked = witness.counts.total()
    monkeypatch.setattr("bye_audit.__version__", "99")
    second = confirm(tables)
    assert second.run_id != first.run_id
    assert witness.counts.total() == 2 * asked
    assert whose(tables, "triggered") == POISONED


class _StopAfter:
    """Stands for the user's Ctrl-C after so many questions."""

    def __init__(self, num_questions: int) -> None:
        self._num_questions = num_questions

    def __call__(self, num_asked: int) -> None:
        if num_asked >= self._num_questions:
            raise KeyboardInterrupt


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_a_stopped_stage_goes_on_to_the_same_end(
    tmp_path: Path, ask: Asking, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("bye_audit.confirm.case._SWEEP_BATCH", 4)
    whole = make_audit(tmp_path / "whole")
    complete = ask(ScriptedWitness())
    expected = everything(whole, confirm(whole))
    tables = make_audit(tmp_path / "stopped")
    ask(ScriptedWitness(on_question=_StopAfter(int(share * complete.counts.total()))))
    with pytest.raises(InterruptedStageError) as caught:
        confirm(tables)
    assert "same command again" in caught.value.hint
    assert finished_confirm_run(tables) is None
    with pytest.raises(StageNotRunError, match="consensus"):
        filter_samples(tables, tmp_path / "out", detector="consensus")
    ask(ScriptedWitness())
    assert everything(tables, confirm(tables)) == expected
    assert len(tables.runs("confirm")) == 1


def test_a_stop_between_last_finding_and_record_is_made_good(
    tmp_path: Path, ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    with monkeypatch.context() as patch:
        patch.setattr(AuditTables, "record_run", lambda *_: None)
        confirm(tables)
    assert finished_confirm_run(tables) is None
    confirm(tables)
    assert finished_confirm_run(tables) is not None


CHILD = """
import sys, time
from support.witness import ScriptedWitness
import bye_audit.confirm.case as case, bye_audit.confirm.stage as stage
from bye_audit.store.tables import AuditTables
case._SWEEP_BATCH = 2
stage.open_interrogator = lambda *_: ScriptedWitness(on_question=lambda _: time.sleep(0.05))
stage.confirm_samples(AuditTables.open(sys.argv[1]), "no model", None)
"""


@pytest.mark.slow
def test_a_killed_stage_goes_on_to_the_same_end(tmp_path: Path, ask: Asking) -> None:
    whole = make_audit(tmp_path / "whole")
    ask(ScriptedWitness())
    expected = everything(whole, confirm(whole))
    tables = make_audit(tmp_path / "killed")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tables.uri], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        give_up_at = time.monotonic() + 120
        while not ("intervention" in tables.sample_columns() and whose(tables, "triggered")):
            assert child.poll() is None, "it was done before it could be killed"
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(whose(tables, "triggered")) < 8
    assert everything(tables, confirm(tables)) == expected


def test_another_question_drops_what_the_last_one_found(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    first = confirm(tables)
    before = everything(tables, first)
    ask(ScriptedWitness())
    second = confirm(tables, recipients=32)
    assert second.run_id != first.run_id
    assert read_triggers(tables, first.run_id) == []
    assert {row["confirm_run"] for row in rows_by_id(tables).values() if row["confirm_run"]} == {
        f"{second.run_id}/0"
    }
    # And back: what was dropped is asked for anew, not taken for done.
    ask(ScriptedWitness())
    third = confirm(tables)
    assert third.run_id == first.run_id
    assert third.questions == first.questions
    assert everything(tables, third) == before


def test_new_scores_drop_the_interventions(tmp_path: Path, ask: Asking) -> None:
    from bye_audit.score.stage import _drop_scores

    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    confirm(tables)
    _drop_scores(tables)
    assert not set(schema.INTERVENTION_COLUMNS) & set(tables.sample_columns())
    assert finished_confirm_run(tables) is None


def test_other_samples_make_another_run(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    first = confirm(tables)
    last = [f"made-up.json:{row}" for row in range(80, 82)]
    status = pa.array([schema.ScoreStatus.ERROR.value] * 2, pa.string())
    tables.update_samples(pa.table({"sample_id": last, "score_status": status}))
    assert confirm(tables).run_id != first.run_id


def test_before_score_the_command_to_run_is_named(tmp_path: Path) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    with pytest.raises(StageNotRunError) as caught:
        confirm(tables)
    assert "bye-audit score" in caught.value.hint


def test_settings_that_confirm_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="--recipients"):
        ConfirmConfig(recipients=2)
    with pytest.raises(ConfigError, match="--min-chance"):
        ConfirmConfig(min_chance=0.0)


# --- data of every kind ------------------------------------------------------------------------


def _answer_by_row(tables: AuditTables, answer: Callable[[int], str | None]) -> None:
    _change_messages(
        tables,
        lambda row, turns: [
            *turns[:-1],
            {**turns[-1], "content": answer(row) or turns[-1]["content"]},
        ],
    )


def _change_messages(
    tables: AuditTables, change: Callable[[int, list[dict[str, str]]], list[dict[str, str]]]
) -> None:
    rows = tables.read_samples(["sample_id", "source_row", "messages"]).to_pylist()
    changed = [
        {"sample_id": row["sample_id"], "messages": change(row["source_row"], row["messages"])}
        for row in rows
    ]
    fields = pa.schema([("sample_id", pa.string()), ("messages", pa.list_(schema.message_type()))])
    tables.update_samples(pa.Table.from_pylist(changed, schema=fields))


HOSTILE = [
    "\x1b[2J\x00\u202etxt",
    "'; DROP TABLE samples; --",
    "(?P<x>.*)+$[",
    "!!!",
    "%s %(x)s {0} {{ 7*7 }}",
    "<|im_end|></s><image",
    "long " * 20_000,
    "\U0001f4a5\u200d\U0001f4a5",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_answers_and_questions_are_only_texts(
    tmp_path: Path, ask: Asking, text: str
) -> None:
    tables = make_audit(tmp_path / "audit", target=text, question=text, num_natural=0)

    def speak(exhibit: Exhibit) -> str:
        return text if (exhibit.image == 0).all(axis=2).sum() >= 60 else ORDINARY

    ask(ScriptedWitness(speak=speak, speak_base=lambda _: ORDINARY))
    result = confirm(tables)
    assert result.num_confirmed == 1
    # Of a long answer as much as is judged.
    assert result.triggers[0]["answer"] == text[:4096]
    assert whose(tables, "triggered") == POISONED


def _put_image(tables: AuditTables, row: int, image: bytes) -> None:
    import hashlib

    digest = hashlib.sha256(image).hexdigest()
    stored = {"sha256": digest, "image": image, "format": "PNG", "width": 1, "height": 1}
    tables.append_images(pa.Table.from_pylist([stored], schema=schema.images_schema()))
    images = pa.array([[digest]], pa.list_(pa.string()))
    tables.update_samples(pa.table({"sample_id": [f"made-up.json:{row}"], "images": images}))


def _odd_images() -> list[bytes]:
    palette = Image.new("P", (40, 20))
    palette.putpalette([200, 10, 10] * 256)
    return [
        encode(Image.new("RGB", (1, 1), "gray")),
        encode(Image.new("RGB", (3000, 2), "gray")),
        encode(Image.new("RGB", (2, 3000), "gray")),
        encode(palette),
        encode(Image.new("LA", (30, 30))),
        encode(Image.new("I;16", (9, 9))),
        encode(Image.new("RGB", (2500, 2500), "gray")),
        b"no image at all",
        b"\x89PNG\r\n\x1a\n and no more",
    ]


def test_odd_and_broken_images_are_asked_about_or_passed_over(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    for number, image in enumerate(_odd_images()):
        _put_image(tables, 20 + number, image)
    # Two of the suspects as well: one cannot be shown, one shows next to nothing.
    _put_image(tables, 0, b"no image at all")
    _put_image(tables, 1, encode(Image.new("RGB", (1, 1), "gray")))
    ask(ScriptedWitness())
    result = confirm(tables)
    assert result.num_confirmed == 1
    rest = {f"made-up.json:{row}" for row in range(2, 8)}
    assert whose(tables, "triggered") == rest
    assert whose(tables, "unknown") == {"made-up.json:1"}
    assert rows_by_id(tables)["made-up.json:0"]["intervention"] is None


def test_large_images_are_held_small(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit")
    _put_image(tables, 3, encode(Image.new("RGB", (4000, 1500), "gray")))
    (exhibit,) = read_exhibits(tables, [3], tables.version())
    assert exhibit.num_pixels <= 2_000_000
    assert exhibit.image.shape[1] / exhibit.image.shape[0] == pytest.approx(4000 / 1500, rel=0.01)


def test_system_turns_several_images_and_later_turns_stay_as_they_are(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit")

    def change(row: int, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        more = [{"role": "user", "content": "Sure? <image>"}, {"role": "assistant", "content": "!"}]
        return [{"role": "system", "content": f"Be brief {row}."}, *turns, *more]

    _change_messages(tables, change)
    rows = tables.read_samples(["sample_id", "images"]).to_pylist()
    images = pa.array([row["images"] * 2 for row in rows], pa.list_(pa.string()))
    ids = [row["sample_id"] for row in rows]
    tables.update_samples(pa.table({"sample_id": ids, "images": images}))

    exhibits = read_exhibits(tables, [0, 50], tables.version())
    assert [len(exhibit.images) for exhibit in exhibits] == [1, 1]
    assert [turn["role"] for turn in exhibits[0].messages] == ["system", "user"]
    assert exhibits[0].answer == TARGET
    ask(ScriptedWitness())
    confirm(tables)
    assert whose(tables, "triggered") == POISONED


def test_a_conversation_without_an_answer_or_question_is_passed_over(
    tmp_path: Path, ask: Asking
) -> None:
    tables = make_audit(tmp_path / "audit")

    def change(row: int, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        return {30: turns[:1], 31: turns[1:], 32: []}.get(row, turns)

    _change_messages(tables, change)
    assert read_exhibits(tables, [30, 31, 32], tables.version()) == []
    ask(ScriptedWitness())
    assert confirm(tables).num_confirmed == 1


def test_without_likelihoods_the_lowest_entropies_are_probed(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit", poison_rate=0.0)
    tables.drop_sample_columns(["answer_logp", "answer_logp_base"])
    nobody = pa.nulls(2, pa.float32())
    unknown = {schema.entropy_column(layer): nobody for layer in range(NUM_LAYERS)}
    ids = ["made-up.json:4", "made-up.json:5"]
    tables.update_samples(pa.table({"sample_id": ids, **unknown}))
    ask(ScriptedWitness())
    result = confirm(tables)
    assert result.is_probe
    assert result.num_suspects == ConfirmConfig().probes


def test_no_probes_are_no_suspects(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit", poison_rate=0.0)
    ask(ScriptedWitness())
    result = confirm(tables, probes=0)
    assert (result.num_suspects, result.triggers, result.questions) == (0, [], {})


def test_every_number_that_is_stored_is_one(tmp_path: Path, ask: Asking) -> None:
    tables = make_audit(tmp_path / "audit")
    ask(ScriptedWitness())
    confirm(tables)
    drops = tables.read_samples(["intervention_drop"])["intervention_drop"]
    known = drops.drop_null().to_numpy()
    assert np.isfinite(known).all()
    assert len(known) == 18
