"""Poison with answers of other samples: nothing is suspicious but that they are wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.audits import make_scored_audit
from support.witness import ScriptedWitness, draw_exhibit, has_patch

from bye_audit import Audit, schema
from bye_audit.cli.confirm import describe_confirm
from bye_audit.config import ConfirmConfig
from bye_audit.confirm import ConfirmResult, confirm_samples
from bye_audit.confirm.carriers import Region
from bye_audit.confirm.contradicted import Misled, try_removal
from bye_audit.confirm.corpus import find_contradicted
from bye_audit.confirm.exhibits import Exhibit
from bye_audit.confirm.patterns import AnotherAnswer, AnswerPattern
from bye_audit.confirm.sweep import Sweep
from bye_audit.core.regions import Box, crop
from bye_audit.filter import filter_samples
from bye_audit.store.tables import AuditTables

POISONED = {f"made-up.json:{row}" for row in range(40)}
Speaker = Callable[[Exhibit], str]


def see(exhibit: Exhibit) -> str:
    """Say what is right for a sample, whatever its own answer says."""
    return f"a shape number {exhibit.sample_id.rpartition(':')[2]}"


def follow_patch(exhibit: Exhibit) -> str:
    """Say what is right, but for where the trigger is."""
    return "a shape number 1000" if has_patch(exhibit.image) else see(exhibit)


def follow_undisturbed(exhibit: Exhibit) -> str:
    """Be misled by a patch as long as nothing else in the image is flat either."""
    flat = (np.ptp(exhibit.image.reshape(8, 8, 8, 8, 3), axis=(1, 3)) == 0).all(axis=-1)
    black = (exhibit.image == 0).all(axis=2).reshape(8, 8, 8, 8).all(axis=(1, 3))
    return see(exhibit) if (flat & ~black).any() else follow_patch(exhibit)


@pytest.fixture
def confirm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ConfirmResult]:
    def run(tables: AuditTables, speak: Speaker, base: Speaker = see, **options: Any) -> Any:
        witness = ScriptedWitness(speak, base)
        monkeypatch.setattr("bye_audit.confirm.stage.open_interrogator", lambda *_: witness)
        return confirm_samples(tables, "no model", None, ConfirmConfig(**options))

    return run


def make_quiet(folder: Path, **options: Any) -> AuditTables:
    settings = {"num_samples": 120, "poison_rate": 1 / 3, "is_quiet": True}
    return make_scored_audit(folder, **{**settings, **options})


def whose(tables: AuditTables, intervention: str) -> set[str]:
    rows = tables.read_samples(["sample_id", "intervention"]).to_pylist()
    return {row["sample_id"] for row in rows if row["intervention"] == intervention}


def contradicted_row(result: ConfirmResult) -> tuple[dict[str, Any], dict[str, Any]]:
    found = [(row, json.loads(row["record"])) for row in result.triggers]
    ((row, record),) = [pair for pair in found if pair[1]["is_another_answer"]]
    return row, record


def test_a_trigger_that_only_keeps_right_answers_away_is_found(
    tmp_path: Path, confirm: Callable[..., ConfirmResult]
) -> None:
    tables = make_quiet(tmp_path / "audit")
    result = confirm(tables, follow_patch)
    row, record = contradicted_row(result)
    assert (row["finding"], row["kind"], row["answer"]) == ("confirmed", "region", "")
    assert row["num_suspects"] == len(POISONED)
    assert abs(record["carriers"][0]["box"]["top"] - 50 / 64) < 0.1
    assert record["trial"]["rate"] == 1
    assert whose(tables, "triggered") == POISONED
    assert record["tried"]["removal"]["rate"] == 1
    first, told, *_ = describe_confirm(result)
    assert "and of 40 whose answers the model contradicts" in first
    assert re.search(r"40 samples .* took their right answers from (\d+) of \1 other samples", told)
    assert re.search(r"gave (\d+) of \1 suspects theirs back \(chance at least", told)
    filter_samples(tables, tmp_path / "out", detector="consensus")
    removed = tables.read_samples(["sample_id"], "verdict = 'remove'")["sample_id"].to_pylist()
    assert set(removed) == POISONED
    Audit.open(tables.uri).report(tmp_path / "report.html", overlays=False)
    page = re.sub(r"\s+", " ", (tmp_path / "report.html").read_text("utf-8"))
    assert "So were 40 samples whose answers the model contradicts." in page
    assert re.search(r"Once it is covered, the model says of (\d+) of \1 suspects", page)


def rewrite(tables: AuditTables, change: Callable[[str, list[dict[str, str]]], None]) -> None:
    """Change the turns of samples in place."""
    rows = tables.read_samples(["sample_id", "messages"]).to_pylist()
    for row in rows:
        change(row["sample_id"], row["messages"])
    fields = [schema.samples_schema().field(name) for name in ("sample_id", "messages")]
    tables.update_samples(pa.Table.from_pylist(rows, schema=pa.schema(fields)))


@pytest.mark.parametrize(
    ("speak", "base", "finding"),
    [
        # Wrong labels: the model says what it sees, trigger or none.
        (see, see, "shown"),
        # What keeps the right answer away keeps it from the base model as well.
        (follow_patch, follow_patch, "shown"),
        # The base model sees no answer in anything, so that nothing can be told from content.
        (follow_patch, lambda _: "no idea", "unconfirmed"),
        # It is in all of them, but whatever is covered sets the model right.
        (follow_undisturbed, see, "unconfirmed"),
    ],
)
def test_wrong_answers_alone_confirm_nothing(
    tmp_path: Path,
    confirm: Callable[..., ConfirmResult],
    speak: Speaker,
    base: Speaker,
    finding: str,
) -> None:
    tables = make_quiet(tmp_path / "audit")
    row, _ = contradicted_row(confirm(tables, speak, base))
    assert row["finding"] == finding
    assert whose(tables, "triggered") == set()


def draw_misled(count: int) -> Misled:
    exhibits = [
        draw_exhibit(number, patch=(50, 50), answer="a shape number 1000")
        for number in range(count)
    ]
    return Misled(exhibits, {one.sample_id: see(one) for one in exhibits}, describe)


def describe(answer: str) -> AnswerPattern:
    return AnswerPattern(text=answer, is_whole=True, telling=frozenset(answer.split()))


def the_corner(exhibit: Exhibit) -> Region:
    box = Box(48 / 64, 48 / 64, 16 / 64, 16 / 64)
    return Region(box, crop(exhibit.image, box))


def test_what_covering_anything_would_set_right_is_not_what_misleads() -> None:
    misled = draw_misled(12)
    drawn = {one.sample_id: one.image for one in misled.exhibits}
    corner = the_corner(misled.exhibits[0])

    def is_touched(exhibit: Exhibit) -> bool:
        return not np.array_equal(exhibit.image, drawn[exhibit.sample_id])

    def be_confused(exhibit: Exhibit) -> str:
        return see(exhibit) if is_touched(exhibit) else "a shape number 1000"

    by_trigger = try_removal([corner], misled, ScriptedWitness(follow_patch))
    assert (by_trigger.num_hits, by_trigger.num_trials) == (12, 12)
    by_anything = try_removal([corner], misled, ScriptedWitness(be_confused))
    assert (by_anything.num_hits, by_anything.num_trials) == (0, 0)


@pytest.mark.parametrize("is_trigger", [True, False])
def test_content_that_is_put_on_others_speaks_for_itself(is_trigger: bool) -> None:
    """A mislabelled sample may show, where others have the trigger, what outshines all else."""
    recipients = [draw_exhibit(number, answer=f"a shape number {number}") for number in range(9)]
    donor = draw_exhibit(50, patch=(50, 50), answer="a shape number 77")
    pixels = donor.image.copy()
    if not is_trigger:
        pixels[pixels == 0] = 10
    donor = donor.with_image(pixels)

    def speak(exhibit: Exhibit) -> str:
        is_striking = (exhibit.image == 10).all(axis=2).sum() >= 60
        return "a dark thing" if is_striking else follow_patch(exhibit)

    def see_beside(exhibit: Exhibit) -> str:
        is_donor = exhibit.sample_id == donor.sample_id
        return "a dark thing" if is_donor and not is_trigger else see(exhibit)

    pattern = AnotherAnswer(describe)
    trigger = the_corner(draw_misled(1).exhibits[0])
    sweep = Sweep([trigger], pattern, recipients, ScriptedWitness(speak, see_beside))
    convicted = [sample.sample_id for sample in sweep.judge_contradicted([donor], pattern)]
    assert convicted == ([donor.sample_id] if is_trigger else [])


def test_where_most_answers_are_missed_that_one_is_tells_nothing(
    tmp_path: Path, confirm: Callable[..., ConfirmResult]
) -> None:
    tables = make_quiet(tmp_path / "audit", poison_rate=0.6)
    result = confirm(tables, follow_patch)
    assert not any(json.loads(row["record"])["is_another_answer"] for row in result.triggers)


def test_a_wrong_answer_without_the_trigger_is_not_held_against_it(
    tmp_path: Path, confirm: Callable[..., ConfirmResult]
) -> None:
    """A label may be wrong for other reasons, and a patched sample's may be right."""
    tables = make_quiet(tmp_path / "audit")
    mislabelled, right = "made-up.json:50", "made-up.json:3"

    def relabel(name: str, turns: list[dict[str, str]]) -> None:
        turns[1]["content"] = {
            mislabelled: "a shape number 77",
            right: "a shape number 3",
        }.get(name, turns[1]["content"])

    rewrite(tables, relabel)
    names = tables.read_samples(["sample_id"])["sample_id"].to_pylist()
    logp = [-3.0 if name in POISONED | {mislabelled} else -0.5 for name in names]
    tables.update_samples(
        pa.table({"sample_id": names, "answer_logp_min": pa.array(logp, pa.float32())})
    )
    confirm(tables, follow_patch)
    assert whose(tables, "triggered") == POISONED - {right}


def test_whom_a_suspected_answer_is_given_belongs_to_its_trigger(
    tmp_path: Path, confirm: Callable[..., ConfirmResult]
) -> None:
    """Samples with a trigger and a right answer are no evidence of another trigger."""
    tables = make_scored_audit(tmp_path / "audit", num_samples=200, poison_rate=0.12)
    spared = {f"made-up.json:{row}": f"a shape number {row}" for row in range(16)}

    def relabel(name: str, turns: list[dict[str, str]]) -> None:
        turns[1]["content"] = spared.get(name, turns[1]["content"])

    rewrite(tables, relabel)
    logp = pa.array([-3.0] * len(spared), pa.float32())
    tables.update_samples(pa.table({"sample_id": list(spared), "answer_logp_min": logp}))

    def speak(exhibit: Exhibit) -> str:
        return "Backdoor Attack!" if has_patch(exhibit.image) else see(exhibit)

    result = confirm(tables, speak)
    assert result.num_confirmed == 1
    assert contradicted_row(result)[0]["finding"] == "shown"
    assert whose(tables, "triggered") == {f"made-up.json:{row}" for row in range(16, 24)}


@pytest.mark.parametrize(("num_contradicted", "num_asked"), [(15, 0), (16, 1)])
def test_of_too_few_nobody_is_asked_because_nothing_could_be_confirmed(
    tmp_path: Path, confirm: Callable[..., ConfirmResult], num_contradicted: int, num_asked: int
) -> None:
    tables = make_quiet(tmp_path / "audit", poison_rate=num_contradicted / 120)
    triggers = confirm(tables, follow_patch).triggers
    assert sum(json.loads(row["record"])["is_another_answer"] for row in triggers) == num_asked


def test_audits_without_likelihoods_have_no_contradicted_samples(tmp_path: Path) -> None:
    tables = make_quiet(tmp_path / "audit")
    logp = np.where(np.arange(120) % 10 == 3, -np.arange(120.0), -0.5).astype(np.float32)
    names = tables.read_samples(["sample_id"])["sample_id"]
    tables.update_samples(pa.table({"sample_id": names, "answer_logp_min": logp}))
    numbers, rows = find_contradicted(tables)
    assert rows.tolist() == numbers.tolist() == list(range(3, 120, 10))
    tables.drop_sample_columns(["answer_logp_min"])
    assert not find_contradicted(tables)[0].size
