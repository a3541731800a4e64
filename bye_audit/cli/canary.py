"""The command that plants known poison in copies of an audit, and its answer as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import bye_audit as package
from bye_audit.cli import options as shared
from bye_audit.cli import output
from bye_audit.cli.progress import make_progress
from bye_audit.cli.text import count, format_seconds
from bye_audit.config import CanaryConfig, DetectConfig
from bye_audit.report.text import escape_controls

if TYPE_CHECKING:
    from bye_audit.canary import BlindRate, CanaryPlan, CanaryReport
    from bye_audit.canary.learning import Learning
    from bye_audit.canary.results import CellResult, DetectorOutcome
    from bye_audit.core.metrics import Proportion

_DEFAULT = CanaryConfig(attacks=("patch",), rates=(0.1,))
_SIGHTS = {
    "seen": "seen",
    "missed": "MISSED",
    "not_learnt": "not learnt",
    "not_judged": "not judged",
}


@click.command()
@shared.audit_argument
@click.option(
    "--attack",
    "attacks",
    required=True,
    multiple=True,
    metavar="NAME",
    help="Attack to plant, such as patch or text-prefix; may be repeated. docs/attacks.md has all.",
)
@click.option(
    "--rate",
    "rates",
    required=True,
    multiple=True,
    type=float,
    metavar="R",
    help="Share of the samples to poison, as in 0.01; may be repeated. Each attack at each rate is "
    "one training.",
)
@shared.model_option(required=False)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder for the copies and the results. Default: AUDIT-canary, beside AUDIT.",
)
@click.option(
    "--relative-size",
    type=float,
    default=_DEFAULT.relative_size,
    show_default=True,
    help="Side of a patch as a share of the image's shorter side.",
)
@click.option(
    "--min-recall",
    type=float,
    default=_DEFAULT.min_recall,
    show_default=True,
    help="Least share of the planted samples that must be found to count as seen.",
)
@click.option(
    "--seed",
    type=int,
    default=_DEFAULT.seed,
    show_default=True,
    help="Seed of what is held out, chosen and planted.",
)
@shared.finetune_overrides
@shared.detect_options
@shared.trust_option
@shared.json_option
def canary(
    audit: str,
    model: str | None,
    out: str | None,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Would poison have been seen here? Plant some and see.

    Plants known poison in copies of AUDIT, which itself is only read; trains, scores and detects on
    each copy as on AUDIT, and says how much of the poison every detector finds and below which rate
    it would be blind. Settings of the training that are not given are those of the last finetune.
    """
    config = shared.take_config(CanaryConfig, options)
    detect = shared.take_config(DetectConfig, options)
    report = (
        package.Audit.open(audit, progress=make_progress())
        .canary(
            config,
            model=model,
            out_dir=out,
            finetune={name: value for name, value in options.items() if value is not None},
            detect=detect,
            announce=_announce,
            trust_remote_code=trust_remote_code,
        )
        .canary_report
    )
    assert report is not None
    if as_json:
        output.show_json(report.to_json())
    else:
        output.show(describe_canary(report))


def _announce(plan: CanaryPlan) -> None:
    """Say on stderr what is going to be done."""
    for line in describe_plan(plan):
        click.echo(escape_controls(line), err=True)


def describe_plan(plan: CanaryPlan) -> list[str]:
    """Say how many trainings there will be, on what, and how long they take."""
    subjects = plan.subjects
    num_done = len(plan.cells) - len(plan.todo)
    lines = [
        f"{count(len(plan.cells), 'training')} on copies of {subjects.num_copied:,} samples"
        + (f", {num_done:,} of them done already" if num_done else "")
        + f". Everything goes to {plan.out_dir}.",
        f"{count(len(subjects.rows), 'sample')} of each copy can carry poison; "
        f"{len(subjects.held_out_rows):,} more are held out to try the trigger on.",
        *_suspected_line(len(subjects.suspected_ids), plan.suspected_by),
    ]
    if plan.training is not None and plan.seconds is not None:
        lines.append(
            f"{count(len(plan.todo), 'training')} to do, about {format_seconds(plan.seconds)} with "
            f"scoring on {plan.training.device}, measured by a few steps."
        )
    elif plan.training is not None:
        lines.append(
            f"{count(len(plan.todo), 'training')} to do. Times were not measured: "
            f"{plan.training.not_measured}."
        )
    return lines + [f"Warning: {warning}" for warning in plan.warnings]


def describe_canary(report: CanaryReport) -> list[str]:
    """Say for every attack and rate who saw it, then where each detector becomes blind."""
    lines: list[str] = []
    for cell in report.cells:
        lines += [*_cell_lines(cell, report.min_recall), ""]
    lines.append(
        "In brackets: 95% Wilson intervals. Seen means: poison is suspected and at least "
        f"{report.min_recall:.0%} of it is found. Blind below:"
    )
    for attack, by_detector in report.blind_rates().items():
        lines += [
            f"  {attack:<17} {name:<13} {_blind_words(rate)}" for name, rate in by_detector.items()
        ]
    lines += [
        *_before_line(report),
        *_suspected_line(report.num_suspected, report.suspected_by),
        "It holds for this data, this model, these settings and these attacks; another attack may "
        "pass unseen.",
        f"Results: {Path(report.out_dir) / 'canary.json'}",
    ]
    return lines


def _cell_lines(cell: CellResult, min_recall: float) -> list[str]:
    lines = [
        f"{cell.attack} at {_percent(cell.rate)}: {cell.num_planted:,} of "
        f"{cell.num_samples:,} samples planted"
        + (f", {count(cell.num_decoys, 'decoy')}" if cell.num_decoys else "")
        + (f", {cell.num_spoilt:,} could not be" if cell.num_spoilt else "")
        + ".",
        f"  {_learning_words(cell.learning)}",
    ]
    if cell.loss_warning:
        lines.append(f"  Warning: {cell.loss_warning}")
    for outcome in cell.detectors:
        sight = _SIGHTS[cell.sight(outcome, min_recall)]
        lines.append(f"  {outcome.detector:<13} {sight:<10}  {_outcome_words(outcome)}".rstrip())
        lines += [f"  {'':<13} {remark}" for remark in _remarks(outcome)]
    return lines


def _learning_words(learning: Learning) -> str:
    found = learning.turned
    if found.value is None:
        return "No held-out sample could show whether the attack was learnt."
    turned = f"The trigger turns {_interval(found)} of {found.num_trials} held-out answers"
    return f"{turned}." if learning.is_learnt else f"{turned}: not learnt, so nothing to miss."


def _outcome_words(outcome: DetectorOutcome) -> str:
    if outcome.metrics is None or outcome.decision is None:
        return outcome.explanation
    metrics = outcome.metrics
    return (
        f"{outcome.decision:<16}  recall {_interval(metrics.recall):<17}  "
        f"precision {_interval(metrics.precision):<17}"
        + ("" if metrics.f1 is None else f"  F1 {metrics.f1:.3f}")
    )


def _remarks(outcome: DetectorOutcome) -> list[str]:
    """Say what the figures must be read with, a line each."""
    remarks = []
    if outcome.num_false_alarms:
        alarms = count(outcome.num_false_alarms, "false alarm")
        if outcome.before is not None:
            alarms += f", {outcome.before.num_shared:,} of them without the canary as well"
        remarks.append(alarms)
    if outcome.num_suspected_flagged:
        remarks.append(f"{outcome.num_suspected_flagged:,} flagged that were suspected already")
    if outcome.num_decoys_flagged:
        remarks.append(f"{count(outcome.num_decoys_flagged, 'decoy')} flagged")
    return remarks


def _before_line(report: CanaryReport) -> list[str]:
    """Say what the detectors make of the audit itself; all copies are compared with the same."""
    words = [
        f"{outcome.detector} {outcome.before.decision}, {outcome.before.num_flagged:,} flagged"
        for outcome in report.cells[0].detectors
        if outcome.before is not None
    ]
    return [f"The same data without the canary: {'; '.join(words)}."] if words else []


def _suspected_line(number: int, detector: str | None) -> list[str]:
    if not number:
        return []
    return [
        f"{count(number, 'sample')} that the last filter ({detector}) removed stay in the copies, "
        "are never planted and are counted apart."
    ]


def _blind_words(found: BlindRate) -> str:
    """Say what the rates that were run tell, and no more."""
    rate = "" if found.rate is None else _percent(found.rate)
    if found.bound == "at_most":
        words = f"at most {rate}: seen there, missed at no lower rate"
    elif found.bound == "between":
        assert found.missed_below is not None
        words = f"{rate}: seen there, missed at {_percent(found.missed_below)}"
    elif found.bound == "above":
        words = f"above {rate}: seen at no rate that was run"
    elif found.bound == "not_learnt":
        words = "not known: the model learnt the attack at no rate that was run"
    else:
        words = "not known: it could not judge"
    if found.missed_above:
        words += f"; missed again at {', '.join(map(_percent, found.missed_above))}"
    if found.not_learnt and found.bound != "not_learnt":
        words += f"; not learnt at {', '.join(map(_percent, found.not_learnt))}"
    return words


def _interval(found: Proportion) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "-"
    low, high = (f"{100 * end:.3g}" for end in (found.low, found.high))
    return f"{100 * found.value:.3g}% [{low}-{high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
