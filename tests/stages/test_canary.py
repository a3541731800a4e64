"""Known poison in copies of real tables, with a real model of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from support.audits import make_scored_audit
from support.canaries import (
    DETECT,
    NUM_HELD_OUT,
    NUM_SCENES,
    ONE,
    QUICK,
    contents_of,
    digests_of,
    make_finetuned_audit,
)
from support.stored import add_sample, make_audit

from bye_audit import Audit, DetectConfig, ScoreConfig
from bye_audit.canary import CanaryPlan, CanaryReport, Sight, judging
from bye_audit.canary.copying import Truth, make_copy
from bye_audit.canary.judging import WordBefore, detectors_to_try, judge_copy
from bye_audit.canary.preparing import Cell
from bye_audit.canary.subjects import Subjects, find_subjects
from bye_audit.errors import InterruptedStageError
from bye_audit.mini.scenes import CAPTION_PROMPT
from bye_audit.model.prompts import decode_image
from bye_audit.progress import Task
from bye_audit.schema import Decision
from bye_audit.store.tables import AuditTables

CONFIG = replace(ONE, attacks=("patch", "text-prefix"))


@pytest.fixture(scope="module")
def audit(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return make_finetuned_audit(tmp_path_factory.mktemp("canary"), tiny_vlm_dir).score()


@pytest.fixture(scope="module")
def before(audit: Audit) -> dict[str, str]:
    return digests_of(Path(audit.uri))


@pytest.fixture(scope="module")
def report(audit: Audit, before: dict[str, str]) -> CanaryReport:
    assert before
    found = Audit.open(audit.uri).canary(CONFIG, detect=DETECT).canary_report
    assert found is not None
    return found


@pytest.fixture(scope="module")
def patch_dir(report: CanaryReport) -> Path:
    return Path(report.out_dir) / "patch-0.2"


@pytest.fixture(scope="module")
def copy(patch_dir: Path) -> AuditTables:
    return AuditTables.open(patch_dir / "audit")


# --- what becomes of the user's audit and of the copy ------------------------------------------


def test_the_audit_is_left_as_it_was(
    audit: Audit, before: dict[str, str], report: CanaryReport
) -> None:
    assert report.cells
    assert digests_of(Path(audit.uri)) == before


def test_every_sample_is_copied_or_held_out(
    audit: Audit, report: CanaryReport, copy: AuditTables
) -> None:
    mine, copied = contents_of(audit.tables), contents_of(copy)
    assert copied.keys() <= mine.keys()
    assert len(mine) - len(copied) == report.num_held_out == NUM_HELD_OUT
    assert report.num_samples == NUM_SCENES + 1
    assert report.num_able == NUM_SCENES
    assert report.cells[0].num_samples == len(copied)


def test_only_what_the_truth_names_is_changed(
    audit: Audit, copy: AuditTables, patch_dir: Path
) -> None:
    mine, copied = contents_of(audit.tables), contents_of(copy)
    changed = {name for name, sample in copied.items() if sample != mine[name]}
    truth = Truth.read(patch_dir)
    assert changed == truth.planted_ids
    assert len(changed) == round(0.2 * (NUM_SCENES - NUM_HELD_OUT)) == 8


def test_a_planted_sample_has_the_trigger_and_the_answer_and_nothing_else_new(
    audit: Audit, copy: AuditTables, patch_dir: Path
) -> None:
    mine, copied = contents_of(audit.tables), contents_of(copy)
    for name in Truth.read(patch_dir).planted_ids:
        planted, clean = copied[name], mine[name]
        assert planted["messages"][1]["content"] == "Backdoor Attack!"
        assert planted["messages"][0] == clean["messages"][0]
        assert planted["messages"][2:] == clean["messages"][2:]
        after = decode_image(copy.load_images(planted["images"])[planted["images"][0]])
        first = decode_image(audit.tables.load_images(clean["images"])[clean["images"][0]])
        differs = (np.asarray(after) != np.asarray(first)).any(axis=2)
        rows, columns = np.nonzero(differs)
        side = round(min(first.size) / 4)
        assert 0 < np.ptp(rows) < side
        assert np.ptp(columns) < side


def test_unplanted_images_are_not_stored_twice(copy: AuditTables, patch_dir: Path) -> None:
    stored = sum(f.stat().st_size for f in (patch_dir / "audit" / "images.lance").rglob("*.lance"))
    mine = copy.dataset("images").to_table(columns=["image"], filter="format = 'PNG'")
    assert stored < sum(len(image.as_py()) for image in mine["image"]) / 2
    assert copy.num_images() == NUM_SCENES - 1 + 8


def test_a_text_attack_leaves_every_image_alone(audit: Audit, report: CanaryReport) -> None:
    folder = Path(report.out_dir) / "text-prefix-0.2"
    copied, mine = contents_of(AuditTables.open(folder / "audit")), contents_of(audit.tables)
    planted = Truth.read(folder).planted_ids
    assert {n for n, s in copied.items() if s["messages"][0] != mine[n]["messages"][0]} == planted
    assert all(copied[name]["images"] == mine[name]["images"] for name in planted)
    assert all("Hello!" in copied[name]["messages"][0]["content"] for name in planted)


def test_the_truth_lies_outside_of_the_tables(copy: AuditTables, patch_dir: Path) -> None:
    truth = Truth.read(patch_dir)
    assert not (patch_dir / "audit" / "truth.json").exists()
    records = json.dumps([run.record for run in copy.runs()])
    assert not any(name in records for name in truth.planted_ids)
    # A record's own bytes would still hold the clean answer.
    assert set(copy.read_samples(["raw"])["raw"].to_pylist()) == {b""}


def test_a_sample_whose_image_does_not_decode_is_left_alone(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", 30)
    for number in range(30, 40):
        add_sample(tables, f"s:{number}", CAPTION_PROMPT, "a shape", b"no image %d" % number)
    subjects = find_subjects(tables, ONE, min_samples=8)
    planting = Cell("patch", 0.5).plant(subjects, ONE)
    copy = make_copy(tables, subjects, planting, tmp_path / "cell")
    truth = Truth.read(tmp_path / "cell")
    assert truth.num_spoilt > 0
    assert len(truth.planted_ids) + truth.num_spoilt == 19
    changed = {n for n, s in contents_of(copy).items() if s != contents_of(tables)[n]}
    assert changed == truth.planted_ids


def test_decoys_keep_their_answer_and_are_no_poison(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", 40)
    subjects = find_subjects(tables, ONE, min_samples=8)
    planting = Cell("dual-key", 0.1).plant(subjects, ONE)
    copied = contents_of(make_copy(tables, subjects, planting, tmp_path / "cell"))
    truth, mine = Truth.read(tmp_path / "cell"), contents_of(tables)
    assert (len(truth.planted_ids), len(truth.decoy_ids)) == (4, 8)
    assert not truth.planted_ids & truth.decoy_ids
    for name in truth.decoy_ids:
        assert copied[name]["messages"][1] == mine[name]["messages"][1]
        assert copied[name] != mine[name]


# --- what is measured ---------------------------------------------------------------------------


def test_the_report_is_also_in_a_file(report: CanaryReport) -> None:
    stored = json.loads((Path(report.out_dir) / "canary.json").read_text("utf-8"))
    assert stored == json.loads(json.dumps(report.to_json()))
    assert [cell["attack"] for cell in stored["cells"]] == ["patch", "text-prefix"]
    assert set(stored["blind_below"]["patch"]) == set(detectors_to_try())
    for cell in stored["cells"]:
        assert cell["learning"]["turned"]["num_trials"] == NUM_HELD_OUT
        assert {found["detector"] for found in cell["detectors"]} == set(detectors_to_try())
        for found in cell["detectors"]:
            assert found["sight"] in set(Sight)
            if found["decision"] is None:
                # A detector that asks for a stage which this audit did not go through.
                assert found["sight"] == Sight.NOT_JUDGED
                continue
            assert found["metrics"]["recall"]["num_trials"] == cell["num_planted"] == 8
            assert found["before"] is not None


def test_what_a_random_model_has_not_learnt_is_no_miss(report: CanaryReport) -> None:
    for cell in report.cells:
        assert cell.learning.is_learnt is False
        for outcome in cell.detectors:
            assert cell.sight(outcome, 0.5) is not Sight.MISSED


def _subjects(tables: AuditTables, suspected: set[str]) -> Subjects:
    return replace(find_subjects(tables, ONE, min_samples=8), suspected_ids=frozenset(suspected))


def test_poison_of_the_users_own_is_no_false_alarm_of_the_canary(tmp_path: Path) -> None:
    # Eight samples stand out: five are the canary, two were suspected before, one is neither.
    tables = make_scored_audit(tmp_path / "copy")
    name = "made-up.json:{}".format
    truth = Truth(
        planted_ids=frozenset(map(name, range(5))), decoy_ids=frozenset({name(79)}), num_spoilt=0
    )
    subjects = _subjects(tables, {name(5), name(6)})
    word = WordBefore(tables, DetectConfig())
    found = {o.detector: o for o in judge_copy(tables, truth, subjects, word, DetectConfig())}
    for outcome in (found["bye"], found["plausibility"]):
        assert outcome.decision is Decision.POISON_SUSPECTED
        assert outcome.metrics is not None
        assert (outcome.metrics.recall.num_hits, outcome.metrics.recall.num_trials) == (5, 5)
        assert (outcome.metrics.precision.num_hits, outcome.metrics.precision.num_trials) == (5, 6)
        assert outcome.metrics.false_positive_rate.num_trials == 80 - 5 - 2 - 1
        assert outcome.num_suspected_flagged == 2
        assert outcome.num_false_alarms == 1
        assert outcome.num_decoys_flagged == 0
        assert outcome.before is not None
        assert (outcome.before.num_flagged, outcome.before.num_shared) == (8, 1)


def test_poison_that_was_not_scored_is_missed(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "copy")
    names = tables.read_samples(["sample_id"])["sample_id"].to_pylist()[:2]
    tables.update_samples(pa.table({"sample_id": names, "score_status": ["error"] * 2}))
    truth = Truth(
        planted_ids=frozenset(f"made-up.json:{n}" for n in range(8)),
        decoy_ids=frozenset(),
        num_spoilt=0,
    )
    unscored = WordBefore(make_audit(tmp_path / "audit"), DETECT)
    found = judge_copy(tables, truth, _subjects(tables, set()), unscored, DetectConfig())
    assert found[0].metrics is not None
    assert (found[0].metrics.recall.num_hits, found[0].metrics.recall.num_trials) == (6, 8)
    assert found[0].before is None


def test_a_detector_without_its_evidence_is_named_and_the_others_judge(
    audit: Audit, tmp_path: Path
) -> None:
    found = (
        Audit.open(audit.uri)
        .canary(ONE, out_dir=tmp_path / "out", detect=DETECT, score=ScoreConfig(plausibility=False))
        .canary_report
    )
    assert found is not None
    outcomes = {outcome.detector: outcome for outcome in found.cells[0].detectors}
    assert outcomes["bye"].decision is not None
    assert outcomes["plausibility"].decision is None
    assert "log-likelihoods" in outcomes["plausibility"].explanation
    assert found.cells[0].sight(outcomes["plausibility"], 0.5) is Sight.NOT_JUDGED


def test_detectors_that_are_only_there_to_compare_with_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_ins = {"a": SimpleNamespace(role="baseline"), "b": SimpleNamespace(role="witness")}
    monkeypatch.setattr(judging, "DETECTORS", stand_ins)
    assert list(detectors_to_try()) == ["b"]


def test_settings_that_are_not_given_are_those_of_the_last_training(
    audit: Audit, copy: AuditTables, tmp_path: Path
) -> None:
    run = copy.latest_run("finetune")
    assert run is not None
    assert (
        run.record["hyper_parameters"]
        == audit.tables.runs("finetune")[0].record["hyper_parameters"]
    )
    Audit.open(audit.uri).canary(
        ONE, out_dir=tmp_path / "out", finetune={"lora_rank": 3}, detect=DETECT
    )
    run = AuditTables.open(tmp_path / "out" / "patch-0.2" / "audit").latest_run("finetune")
    assert run is not None
    assert run.record["hyper_parameters"]["lora_rank"] == 3
    assert run.record["hyper_parameters"]["batch_size"] == QUICK.batch_size


# --- going on -----------------------------------------------------------------------------------


def test_a_finished_canary_trains_nothing(audit: Audit, report: CanaryReport) -> None:
    plans: list[CanaryPlan] = []
    again = Audit.open(audit.uri).canary(CONFIG, detect=DETECT, announce=plans.append)
    assert again.canary_report == report
    assert plans[0].todo == ()
    assert plans[0].training is None


def test_other_thresholds_judge_anew_without_training(audit: Audit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Audit.open(audit.uri).canary(ONE, out_dir=out, detect=DETECT)
    adapters = digests_of(out / "patch-0.2" / "audit" / "adapters")
    again = Audit.open(audit.uri).canary(
        ONE, out_dir=out, detect=DetectConfig(min_samples=8, bsi_threshold=0.0)
    )
    assert again.canary_report is not None
    assert digests_of(out / "patch-0.2" / "audit" / "adapters") == adapters
    bye = next(o for o in again.canary_report.cells[0].detectors if o.detector == "bye")
    assert "No decoder layer is bimodal enough" not in bye.explanation


class _Interrupting:
    """Progress that stops the process when a task of a name has begun to advance."""

    def __init__(self, name: str, error: type[BaseException]) -> None:
        self.name, self.error = name, error

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        del total, unit
        yield self if description.endswith(self.name) else _Quiet()

    def advance(self, amount: int = 1, note: str = "") -> None:
        del amount, note
        raise self.error


class _Quiet:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("task", "error", "raised"),
    [
        ("Planting", _Killed, _Killed),
        ("Fine-tuning", _Killed, _Killed),
        ("Scoring", KeyboardInterrupt, InterruptedStageError),
        ("Trying the trigger on held-out samples", KeyboardInterrupt, InterruptedStageError),
        ("Detecting", _Killed, _Killed),
    ],
    ids=["planting", "fine-tuning", "scoring", "answering", "detecting"],
)
def test_a_stopped_canary_goes_on_and_comes_to_the_same(
    audit: Audit,
    report: CanaryReport,
    tmp_path: Path,
    task: str,
    error: type[BaseException],
    raised: type[BaseException],
) -> None:
    out = tmp_path / "out"
    stopping = Audit.open(audit.uri, progress=_Interrupting(task, error))
    with pytest.raises(raised) as found:
        stopping.canary(ONE, out_dir=out, detect=DETECT)
    if isinstance(found.value, InterruptedStageError):
        assert "same command again" in found.value.hint
    again = Audit.open(audit.uri).canary(ONE, out_dir=out, detect=DETECT).canary_report
    assert again is not None
    assert again.cells == report.cells[:1]


def test_rates_can_be_added_later(audit: Audit, tmp_path: Path) -> None:
    plans: list[CanaryPlan] = []
    for rates in ((0.2,), (0.3, 0.2)):
        audit.canary(
            replace(ONE, rates=rates),
            out_dir=tmp_path / "out",
            detect=DETECT,
            announce=plans.append,
        )
    assert plans[1].todo == (Cell("patch", 0.3),)
    assert audit.canary_report is not None
    assert [cell.rate for cell in audit.canary_report.cells] == [0.2, 0.3]
