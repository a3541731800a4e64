"""Results as lines for people or as one JSON object for programs, on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bye_audit.cli.text import count, format_seconds
from bye_audit.report.text import clip, escape_controls
from bye_audit.schema import Decision

if TYPE_CHECKING:
    from bye_audit.core.bsi import LayerProfile
    from bye_audit.filter import FilterResult
    from bye_audit.finetune import FinetuneResult
    from bye_audit.ingest import IngestSummary, Preview
    from bye_audit.purify import PurifyResult
    from bye_audit.score import ScoreSummary

_SHOWN_CHARACTERS = 100
_DECISION_COLORS = {
    Decision.NO_EVIDENCE: "green",
    Decision.INCONCLUSIVE: "yellow",
    Decision.POISON_SUSPECTED: "red",
}
_DECISION_TITLES = {
    Decision.NO_EVIDENCE: "No evidence of poison",
    Decision.INCONCLUSIVE: "Inconclusive",
    Decision.POISON_SUSPECTED: "Poison suspected",
}


def show(lines: Iterable[str]) -> None:
    """Print lines that may quote a dataset."""
    for line in lines:
        click.echo(escape_controls(line))


def show_json(result: Any) -> None:
    """Print one JSON object; every value that JSON does not know becomes plain text."""
    click.echo(json.dumps(as_plain(result), indent=2, allow_nan=False))


def as_plain(value: Any) -> Any:
    """Turn dataclasses, enums, paths and numpy scalars into what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Path | date | datetime):
        return str(value)
    if hasattr(value, "tolist"):
        return as_plain(value.tolist())
    if isinstance(value, Iterable):
        return [as_plain(item) for item in value]
    return str(value)


def describe_preview(preview: Preview) -> list[str]:
    """Say what a source was recognised as, and show its first records."""
    if not preview.examples:
        return [f"{preview.path}: {preview.container} without records"]
    lines = [
        f"{preview.path}: {preview.format} records ({preview.container}), "
        f"image paths from {preview.image_root}"
    ]
    for example in preview.examples:
        lines.append(f"  record {example.row}{_list_images(example.images)}")
        lines += [
            f"    {message['role']}: {_one_line(message['content'])}"
            for message in example.messages
        ]
        if example.fault:
            lines.append(f"    {example.fault}")
    return lines


def _list_images(images: list[str]) -> str:
    return f": {', '.join(images)}" if images else ""


def _one_line(text: str) -> str:
    return clip(text, _SHOWN_CHARACTERS)


def describe_ingest(summary: IngestSummary) -> list[str]:
    """Say what was read and what was put aside, by reason."""
    lines = [
        f"Read {count(summary.rows_read, 'row')}: {count(summary.num_samples, 'sample')}, "
        f"{summary.num_quarantined:,} quarantined, {count(summary.num_images, 'image')}."
    ]
    lines += [f"  quarantined as {code}: {number:,}" for code, number in summary.by_code.items()]
    return lines


def describe_finetune(result: FinetuneResult) -> list[str]:
    """Say what the provisional adapter was trained on and where it lies."""
    loss = "no steps" if result.final_loss is None else f"final loss {result.final_loss:.4f}"
    seconds = format_seconds(float(result.run.record["seconds"]))
    return [
        f"Provisional adapter {'in' if result.is_new else 'was already in'} {result.adapter_dir}",
        f"  {count(result.num_samples - result.num_left_out, 'sample')} used, "
        f"{result.num_left_out:,} left out, {loss}, {seconds}.",
        "  It has learnt whatever the data teaches, poison included: never ship it.",
        *warn_of_training(result),
    ]


def warn_of_training(result: FinetuneResult | None) -> list[str]:
    """Give the warning of a training whose loss rose, if there is one."""
    return [f"Warning: {result.warning}"] if result is not None and result.warning else []


def describe_score(summary: ScoreSummary) -> list[str]:
    """Say how many samples have scores and how many cannot have any."""
    checked = [summary.check] if summary.check else []
    return [
        *checked,
        f"Scored {count(summary.num_done, 'sample')} in {format_seconds(summary.seconds)} "
        f"({format_seconds(summary.model_seconds)} in the model): {summary.num_ok:,} ok, "
        f"{summary.num_not_scorable:,} not scorable, {summary.num_errors:,} failed.",
        f"All {sum(summary.totals.values()):,} samples: "
        + ", ".join(f"{number:,} {status}" for status, number in summary.totals.items()),
    ]


def describe_profiles(profiles: list[LayerProfile]) -> list[str]:
    """List each layer's separation, and say whether any layer is sensitive."""
    lines = ["layer    BSI   low mean  high mean  low share"]
    for profile in profiles:
        line = f"{profile.layer:>5}  {profile.bsi:>5.2f}"
        if profile.mixture is not None:
            mixture = profile.mixture
            line += f"  {mixture.mean_low:>8.4f}  {mixture.mean_high:>9.4f}"
            line += f"  {mixture.weight_low:>9.1%}"
        lines.append(line + ("  sensitive" if profile.is_sensitive else ""))
    sensitive = [str(profile.layer) for profile in profiles if profile.is_sensitive]
    lines.append(
        f"Sensitive layers: {', '.join(sensitive)}."
        if sensitive
        else "No layer is sensitive: the data gives no evidence of a backdoor to this detector."
    )
    return lines


def describe_purify(result: PurifyResult) -> list[str]:
    """Say how many samples were asked again, and how attention moved."""
    num_asked = result.num_ok + result.num_failed
    lines = [
        f"Asked about {count(num_asked, 'sample')} with its image purified ({result.purifier}) "
        f"in {format_seconds(result.seconds)}: {result.num_ok:,} ok, {result.num_failed:,} failed.",
    ]
    if result.mean_entropy_shift is not None:
        lines.append(
            f"All {count(result.num_purified, 'sample')}: attention entropy "
            f"{result.mean_entropy_shift:+.4f} nats on average."
        )
    return lines


def show_filter(result: FilterResult) -> None:
    """Print the decision first, in words, then what was kept, removed and not scored."""
    decision = Decision(result.decision)
    title = click.style(_DECISION_TITLES[decision] + ".", fg=_DECISION_COLORS[decision], bold=True)
    click.echo(f"{title} {escape_controls(result.explanation)}")
    show(
        [
            f"  {result.num_kept:,} kept, {result.num_removed:,} removed, "
            f"{result.num_not_scored:,} not scored"
            + (f" ({result.num_withheld:,} withheld)" if result.num_withheld else "")
            + ".",
        ]
    )


def format_table(columns: list[str], rows: list[list[Any]], width: int) -> list[str]:
    """Lay rows out in columns, each cell on one line and no wider than fits."""
    limit = max(8, width // max(len(columns), 1))
    cells = [[clip(name, limit) for name in columns]]
    cells += [[clip(_cell(value), limit) for value in row] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return json.dumps(as_plain(value), ensure_ascii=False)
