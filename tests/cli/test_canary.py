"""The command that plants known poison, as a user types it and reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.canaries import make_finetuned_audit

from bye_audit import Audit
from bye_audit.canary.blindness import Sight, find_blind_rate
from bye_audit.canary.learning import summarise
from bye_audit.canary.results import Before, CanaryReport, CellResult, DetectorOutcome
from bye_audit.cli.canary import _blind_words, describe_canary
from bye_audit.cli.main import bye_audit
from bye_audit.core.metrics import precision_recall_f1
from bye_audit.schema import Decision


def _run(audit: Audit, *arguments: str) -> Result:
    command = ["canary", audit.uri, "--relative-size", "0.25", "--min-samples", "8", *arguments]
    return CliRunner().invoke(bye_audit, command, catch_exceptions=False)


@pytest.fixture(scope="module")
def audit(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return make_finetuned_audit(tmp_path_factory.mktemp("cli"), tiny_vlm_dir)


def test_the_answer_goes_to_stdout_and_what_will_be_done_to_stderr(audit: Audit) -> None:
    first = _run(audit, "--attack", "patch", "--rate", "0.1", "--rate", "0.2")
    assert first.exit_code == 0
    assert "2 trainings on copies of 39 samples. Everything goes to" in first.stderr
    assert "38 samples of each copy can carry poison; 2 more are held out" in first.stderr
    assert "2 trainings to do, about " in first.stderr
    assert first.stdout.startswith("patch at 10%: 4 of 39 samples planted.\n")
    assert "of 2 held-out answers: not learnt, so nothing to miss." in first.stdout
    assert "Blind below:\n" in first.stdout
    again = _run(audit, "--attack", "patch", "--rate", "0.2", "--rate", "0.1", "--json")
    assert "2 of them done already" in again.stderr
    found = json.loads(again.stdout)
    assert [cell["rate"] for cell in found["cells"]] == [0.1, 0.2]
    assert Path(found["out_dir"]) == Path(audit.uri + "-canary")
    assert (Path(found["out_dir"]) / "README.txt").is_file()


def test_a_wrong_name_lists_the_right_ones(audit: Audit) -> None:
    found = _run(audit, "--attack", "ptach", "--rate", "0.1")
    assert found.exit_code == 2
    assert "no attack 'ptach'" in found.stderr
    assert "patch, white-patch" in found.stderr
    assert found.stdout == ""


def test_settings_of_the_training_are_only_those_that_were_given(audit: Audit) -> None:
    command = ["--attack", "patch", "--rate", "0.1", "--lora-rank", "3"]
    other = _run(audit, *command)
    assert other.exit_code == 2
    assert "(finetune lora_rank: 2, now 3)" in other.stderr


def test_nothing_is_guessed_that_costs_a_training(audit: Audit) -> None:
    assert _run(audit, "--attack", "patch").exit_code == 2
    assert "Missing option '--attack'" in _run(audit, "--rate", "0.1").stderr


# --- words ----------------------------------------------------------------------------------------


def _report(*cells: CellResult) -> CanaryReport:
    return CanaryReport(
        out_dir="out",
        model="mini",
        num_samples=100,
        num_able=90,
        num_held_out=5,
        num_suspected=7,
        suspected_by="bye",
        min_recall=0.5,
        cells=cells,
    )


FLAGS = [True] * 12 + [False] * 78
PLANTED = [True] * 10 + [False] * 80
SEEN = DetectorOutcome(
    detector="bye",
    decision=Decision.POISON_SUSPECTED,
    explanation="",
    metrics=precision_recall_f1(FLAGS, PLANTED),
    num_suspected_flagged=6,
    num_decoys_flagged=1,
    before=Before(decision=Decision.POISON_SUSPECTED, num_flagged=8, num_shared=2),
)
BLIND = DetectorOutcome(detector="other", decision=None, explanation="It lacks heads.")
CELL = CellResult(
    attack="dual-key",
    rate=0.1,
    num_samples=97,
    num_planted=10,
    num_decoys=20,
    num_spoilt=1,
    learning=summarise([(False, True)] * 4 + [(False, False)]),
    loss_warning="The training loss rose.",
    detectors=(SEEN, BLIND),
)


def test_every_figure_stands_beside_what_it_must_be_read_with() -> None:
    text = "\n".join(describe_canary(_report(CELL)))
    for part in (
        "dual-key at 10%: 10 of 97 samples planted, 20 decoys, 1 could not be.",
        "The trigger turns 80% [37.6-96.4] of 5 held-out answers.",
        "Warning: The training loss rose.",
        "recall 100% [72.2-100]",
        "precision 83.3% [55.2-95.3]",
        "  2 false alarms, 2 of them without the canary as well\n",
        "  6 flagged that were suspected already\n",
        "  1 decoy flagged\n",
        "The same data without the canary: bye poison_suspected, 8 flagged.\n",
        "not judged  It lacks heads.",
        "7 samples that the last filter (bye) removed stay in the copies",
        "at most 10%",
    ):
        assert part in text


def test_a_miss_is_louder_than_what_was_not_learnt() -> None:
    nothing = replace(SEEN, decision=Decision.NO_EVIDENCE)
    missed = "\n".join(describe_canary(_report(replace(CELL, detectors=(nothing,)))))
    assert "MISSED" in missed
    assert "above 10%: seen at no rate that was run" in missed
    dull = replace(CELL, detectors=(nothing,), learning=summarise([(False, False)] * 5))
    excused = "\n".join(describe_canary(_report(dull)))
    assert "MISSED" not in excused
    assert "not known: the model learnt the attack at no rate that was run" in excused


@pytest.mark.parametrize(
    ("sights", "words"),
    [
        ({0.01: Sight.MISSED, 0.05: Sight.SEEN}, "5%: seen there, missed at 1%"),
        (
            {0.01: Sight.SEEN, 0.05: Sight.MISSED, 0.001: Sight.NOT_LEARNT},
            "at most 1%: seen there, missed at no lower rate; missed again at 5%; not learnt at "
            "0.1%",
        ),
        ({0.01: Sight.NOT_JUDGED}, "not known: it could not judge"),
    ],
    ids=["between", "more is not better", "not judged"],
)
def test_blind_rates_in_words(sights: dict[float, Sight], words: str) -> None:
    assert _blind_words(find_blind_rate(sights)) == words
