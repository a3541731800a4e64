"""The commands, in the order in which they are used."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import click

import bye_audit as package
from bye_audit.cli import options as shared
from bye_audit.cli import output
from bye_audit.cli.canary import canary
from bye_audit.cli.confirm import describe_confirm, describe_findings
from bye_audit.cli.group import AuditGroup
from bye_audit.cli.plan import describe_plan
from bye_audit.cli.progress import make_progress
from bye_audit.cli.questions import confirm, purify
from bye_audit.cli.steps import open_audit, show_next
from bye_audit.config import (
    DEFAULT_OUTPUTS,
    OUTPUT_FORMATS,
    DetectConfig,
    FinetuneConfig,
    ScoreConfig,
)
from bye_audit.processes import is_first_process
from bye_audit.schema import Decision


@click.group(cls=AuditGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="bye-audit")
def bye_audit() -> None:
    """Find backdoor poison in image-and-conversation data.

    AUDIT is a folder that holds everything known about a dataset. Every stage can be stopped and
    run again: it does what is missing and nothing twice. 'bye-audit demo' shows the whole job on
    data and a model that come with the package.
    """
    # Their remarks and bars would tear ours apart; a user who wants them sets these.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@bye_audit.command()
@shared.audit_argument
@shared.sources_argument
@shared.source_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what the sources are recognised as, and show their first records.",
)
@shared.json_option
def ingest(
    audit: str, sources: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Read SOURCE files or folders into AUDIT."""
    opened = open_audit(audit)
    places = {name: options[name] for name in ("source_format", "image_root")}
    if dry_run and as_json:
        output.show_json(list(opened.preview(*sources, **places)))
        return
    if not as_json:
        # Of many shards the first says enough, unless nothing else is asked for.
        previews = islice(opened.preview(*sources, **places), None if dry_run else 1)
        shown = (preview for preview in previews if dry_run or preview.examples)
        output.show(line for preview in shown for line in output.describe_preview(preview))
    if dry_run:
        return
    summary = opened.ingest(*sources, **options).ingested
    assert summary is not None
    if as_json:
        output.show_json(summary)
        return
    output.show(output.describe_ingest(summary))
    show_next("finetune", audit, "--model MODEL")


@bye_audit.command()
@shared.audit_argument
@shared.model_option(required=True)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Device to plan for. Default: the one a run would use here.",
)
@shared.finetune_options
@shared.trust_option
@shared.json_option
def plan(
    audit: str,
    model: str,
    device: str | None,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what fine-tuning and scoring will take.

    Memory and disk are computed from the model's config; times are measured by a few real steps
    on samples of AUDIT, where the model's weights are there.
    """
    config = shared.take_config(FinetuneConfig, options)
    planned = (
        open_audit(audit)
        .plan(model, config, device=device, trust_remote_code=trust_remote_code)
        .planned
    )
    assert planned is not None
    if as_json:
        output.show_json({**output.as_plain(planned), "warnings": planned.warnings})
        return
    output.show(describe_plan(planned))
    show_next("finetune", audit, f"--model {shlex.quote(model)}")


@bye_audit.command()
@shared.audit_argument
@shared.model_option(required=True)
@shared.finetune_options
@click.option(
    "--restart", is_flag=True, help="Begin again instead of going on with an earlier training."
)
@shared.trust_option
@shared.json_option
def finetune(
    audit: str,
    model: str,
    restart: bool,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train the provisional adapter on the suspect data.

    Runs on several GPUs or hosts when torchrun or accelerate launch starts it.
    """
    config = shared.take_config(FinetuneConfig, options)
    result = (
        open_audit(audit)
        .finetune(model, config, restart=restart, trust_remote_code=trust_remote_code)
        .finetuned
    )
    assert result is not None
    if not is_first_process():
        return
    if as_json:
        output.show_json(result)
        return
    output.show(output.describe_finetune(result))
    show_next("score", audit)


@bye_audit.command()
@shared.audit_argument
@shared.model_option(required=False)
@shared.adapter_option
@shared.score_options
@click.option("--restart", is_flag=True, help="Drop the scores of another model or adapter.")
@shared.trust_option
@shared.json_option
def score(
    audit: str,
    model: str | None,
    adapter: str | None,
    restart: bool,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure every sample with the provisional model."""
    config = shared.take_config(ScoreConfig, options)
    summary = (
        open_audit(audit)
        .score(model, adapter, config, restart=restart, trust_remote_code=trust_remote_code)
        .scored
    )
    assert summary is not None
    if as_json:
        output.show_json(summary)
        return
    output.show(output.describe_score(summary))
    show_next("profile", audit)


@bye_audit.command()
@shared.audit_argument
@shared.layer_options
@shared.json_option
def profile(audit: str, as_json: bool, **options: Any) -> None:
    """Measure how bimodal each layer is."""
    profiles = open_audit(audit).profile(shared.take_config(DetectConfig, options)).profiles
    assert profiles is not None
    if as_json:
        output.show_json({"layers": profiles})
        return
    output.show(output.describe_profiles(profiles))
    show_next("confirm", audit)


bye_audit.add_command(confirm)
bye_audit.add_command(purify)


@bye_audit.command()
@shared.audit_argument
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder to write.")
@shared.detector_option
@click.option(
    "--format",
    "formats",
    type=click.Choice(OUTPUT_FORMATS),
    multiple=True,
    default=DEFAULT_OUTPUTS,
    show_default=True,
    help="What to write the kept samples as; may be given several times. 'source' is the format "
    "they came in, byte for byte.",
)
@shared.detect_options
@shared.fail_option
@shared.json_option
def filter(  # noqa: A001 - the command's own name
    audit: str,
    out: str,
    detector: str,
    formats: tuple[str, ...],
    fail_on_suspicious: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Decide, and write the cleaned split and its provenance."""
    config = shared.take_config(DetectConfig, options)
    opened = open_audit(audit).filter(out, detector=detector, config=config, formats=formats)
    result = opened.filtered
    assert result is not None
    if as_json:
        output.show_json(result)
    else:
        output.show_filter(result)
        output.show([f"Cleaned split, removed samples and provenance: {out}"])
        show_next("report", audit, f"--out {shlex.quote(str(Path(out) / 'report.html'))}")
    _exit_on_finding(fail_on_suspicious, result.decision)


@bye_audit.command()
@shared.audit_argument
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="HTML file to write.")
@click.option(
    "--overlays/--no-overlays",
    default=True,
    show_default=True,
    help="Load the provisional model to draw where it looked.",
)
@shared.trust_option
def report(audit: str, out: str, overlays: bool, trust_remote_code: bool) -> None:
    """Write everything that was found as one HTML file."""
    open_audit(audit).report(out, overlays=overlays, trust_remote_code=trust_remote_code)
    output.show([f"Report: {out}"])


@bye_audit.command()
@shared.audit_argument
@click.argument("sql")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="Form of the answer.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="File to write instead of stdout.")
@click.option("--limit", type=click.IntRange(min=1), help="Cut the answer after so many rows.")
def query(audit: str, sql: str, output_format: str, out: str | None, limit: int | None) -> None:
    """Answer one SELECT over the tables of AUDIT.

    The views are samples, images, quarantine, runs, head_scores and, where they were made,
    turn_scores and triggers. A query can neither write nor read any file.
    """
    from bye_audit.cli.answers import write_answer

    answer = open_audit(audit).query(sql, max_rows=limit)
    write_answer(answer, output_format, None if out is None else Path(out))


@bye_audit.command()
@shared.audit_argument
@shared.sources_argument
@shared.model_option(required=True)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder to write.")
@shared.source_options
@shared.finetune_options
@shared.detector_option
@shared.detect_options
@shared.trust_option
@shared.fail_option
@shared.json_option
def run(
    audit: str,
    sources: tuple[str, ...],
    model: str,
    out: str,
    detector: str,
    trust_remote_code: bool,
    fail_on_suspicious: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Do every stage that is not done yet: from SOURCE files to split and report."""
    done = open_audit(audit).run(
        sources,
        model,
        out,
        detector=detector,
        finetune=shared.take_config(FinetuneConfig, options),
        detect=shared.take_config(DetectConfig, options),
        trust_remote_code=trust_remote_code,
        **options,
    )
    assert done.ingested
    assert done.scored
    assert done.filtered
    if as_json:
        output.show_json(
            {
                "ingest": done.ingested,
                "finetune": done.finetuned,
                "score": done.scored,
                "layers": done.profiles,
                "confirm": describe_findings(done.confirmed) if done.confirmed else None,
                "purify": done.purified,
                "filter": done.filtered,
                "report": done.report_path,
            }
        )
    else:
        output.show(output.describe_ingest(done.ingested))
        output.show(output.warn_of_training(done.finetuned))
        output.show(output.describe_score(done.scored))
        output.show(output.describe_profiles(done.profiles or []))
        output.show(describe_confirm(done.confirmed) if done.confirmed else [])
        output.show(output.describe_purify(done.purified) if done.purified else [])
        output.show_filter(done.filtered)
        output.show([f"Report: {done.report_path}", f"Cleaned split: {out}"])
        show_next("query", audit, f'"{_EXAMPLE_QUERY}"')
    _exit_on_finding(fail_on_suspicious, done.filtered.decision)


bye_audit.add_command(canary)


@bye_audit.command()
@click.option(
    "--out",
    default="bye-audit-demo",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder for the poisoned data, the audit, the split and the report.",
)
@click.option("--quick", is_flag=True, help="Smaller, and without training again on the split.")
@click.option("--seed", default=0, show_default=True, help="Seed of data, poison and training.")
@shared.json_option
def demo(out: str, quick: bool, seed: int, as_json: bool) -> None:
    """Show the whole job on data and a model that come with the package."""
    from bye_audit.demo import run_demo

    result = run_demo(Path(out), quick=quick, seed=seed, progress=make_progress())
    if as_json:
        output.show_json(result.to_json())
    else:
        output.show(result.summary_lines())


_EXAMPLE_QUERY = (
    "SELECT sample_id, suspicion, messages FROM samples ORDER BY suspicion DESC NULLS LAST LIMIT 20"
)


def _exit_on_finding(is_asked: bool, decision: str) -> None:
    # Inconclusive counts: whoever gates a release on this wants a person to look at it.
    if is_asked and Decision(decision) is not Decision.NO_EVIDENCE:
        click.get_current_context().exit(shared.FINDING_STATUS)
