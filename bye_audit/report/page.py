"""The page itself: findings put into words, charts and one template."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

import bye_audit
from bye_audit.progress import SILENT, Progress
from bye_audit.report import charts, words
from bye_audit.report.findings import Findings, gather_findings
from bye_audit.report.interventions import (
    InterventionsShown,
    describe_intervention,
    gather_interventions,
)
from bye_audit.report.pictures import draw_overlay, draw_picture
from bye_audit.report.provenance import list_facts
from bye_audit.report.selection import SampleChoice
from bye_audit.report.text import escape_controls
from bye_audit.schema import IMAGE_PLACEHOLDER
from bye_audit.store.whole_files import write_whole

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

MAX_TEXT = 600
MAX_IMAGES_PER_SAMPLE = 4


def write_report(
    tables: AuditTables,
    provenance: Mapping[str, Any],
    choice: SampleChoice,
    maps: Mapping[str, NDArray[np.floating]],
    out_path: Path,
    *,
    progress: Progress = SILENT,
) -> Path:
    """Write everything that was found as one HTML file.

    Parameters
    ----------
    tables
        After ``filter``.
    provenance
        The record that ``filter`` wrote.
    choice
        Samples to show.
    maps
        By ``sample_id``, the attention to a sample's only image, (rows, columns) of image tokens;
        samples without one are shown without an overlay.
    out_path
        The file; replaced as a whole if it exists.
    progress
        Where to say how far it is.

    Returns
    -------
    Path
        ``out_path``.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    with progress.task("report", 3, "steps") as task:
        findings = gather_findings(tables, provenance)
        task.advance()
        samples = _load_samples(tables, findings, choice, maps)
        task.advance()
        interventions = gather_interventions(tables, provenance)
        text = _render(findings, interventions, choice, samples)
        write_whole(out_path, text.encode())
        task.advance()
    return out_path


def _render(
    findings: Findings,
    interventions: InterventionsShown | None,
    choice: SampleChoice,
    samples: Mapping[str, Any],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bye_audit.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every value printed passes here first: text of the dataset cannot hide or reorder itself.
        finalize=_visible,
    )
    templates = resources.files("bye_audit.report") / "templates"
    page = {
        **words.describe(findings),
        **_draw_charts(findings),
        "has_overlays": any(view.overlay for sample in samples.values() for view in sample.views),
        "suspicious_samples": [samples[name] for name in choice.suspicious_ids if name in samples],
        "contrast_samples": [samples[name] for name in choice.contrast_ids if name in samples],
        "interventions": interventions,
        "shared_answers": words.describe_answers(findings),
        "provenance": list_facts(findings.provenance),
        "version": bye_audit.__version__,
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return environment.get_template("report.html.j2").render(
        page=page,
        stylesheet=Markup((templates / "report.css").read_text("utf-8")),  # noqa: S704 - our file
    )


def _visible(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(value)
    return value


def _draw_charts(findings: Findings) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "separation_chart": None,
        "score_chart": None,
        "layer_charts": [],
        "training_chart": None,
    }
    if findings.training is not None:
        drawn["training_chart"] = Markup(  # noqa: S704 - drawn from numbers
            charts.draw_training(
                findings.training.steps,
                findings.training.losses,
                findings.training.learning_rates,
                chart_id="training",
                has_failed=findings.training.warning is not None,
            )
        )
    if findings.layers:
        drawn["separation_chart"] = Markup(  # noqa: S704 - drawn from numbers
            charts.draw_separation(
                [layer.layer for layer in findings.layers],
                [layer.bsi for layer in findings.layers],
                [layer.is_sensitive for layer in findings.layers],
                findings.bsi_threshold,
                chart_id="separation",
            )
        )
    if findings.score_histogram is not None and findings.score_histogram.num_values:
        drawn["score_chart"] = Markup(  # noqa: S704 - drawn from numbers
            charts.draw_mixture(
                findings.score_histogram,
                findings.score_components,
                chart_id="score",
                label=words.score_axis(findings),
                cut=findings.cut,
                is_low_suspicious=findings.detector.is_low_suspicious,
            )
        )
    for layer in findings.layers:
        if layer.layer in findings.layer_histograms:
            svg = charts.draw_mixture(
                findings.layer_histograms[layer.layer],
                layer.components,
                chart_id=f"layer{layer.layer}",
                label=words.entropy_axis(findings),
                size=(4.2, 2.4),
            )
            caption = f"Layer {layer.layer}, BSI {layer.bsi:.2f}"
            drawn["layer_charts"].append(
                {"caption": caption, "svg": Markup(svg)}  # noqa: S704 - drawn from numbers
            )
    return drawn


def _load_samples(
    tables: AuditTables,
    findings: Findings,
    choice: SampleChoice,
    maps: Mapping[str, NDArray[np.floating]],
) -> dict[str, Any]:
    rows = _read_rows(tables, choice.sample_ids)
    loaded = {}
    for number, name in enumerate(choice.sample_ids):
        if name not in rows:
            continue
        row = rows[name]
        # One sample at a time: images of a whole page at once may be large.
        digests = row["images"][:MAX_IMAGES_PER_SAMPLE]
        images = tables.load_images(digests)
        views = []
        for index, digest in enumerate(digests):
            has_map = name in maps and len(row["images"]) == 1
            views.append(
                SimpleNamespace(
                    picture=draw_picture(images[digest]),
                    overlay=draw_overlay(maps[name]) if has_map else None,
                    image_id=f"image-{number}-{index}",
                )
            )
        loaded[name] = SimpleNamespace(
            sample_id=name,
            question=_cut(_first_turn(row["messages"], "user")),
            answer=_cut(_first_turn(row["messages"], "assistant")),
            facts=[*words.sample_facts(row, maps.get(name)), *describe_intervention(row)],
            views=views,
        )
    return loaded


def _read_rows(tables: AuditTables, sample_ids: tuple[str, ...]) -> dict[str, Any]:
    if not sample_ids:
        return {}
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sample_ids)
    columns = ["sample_id", "messages", "images", "verdict", "suspicion"]
    # Where confirm was not run, or an earlier version has filtered, these are not there.
    present = tables.sample_columns()
    columns += [name for name in ("witnesses", "intervention") if name in present]
    found = tables.read_samples(columns, f"sample_id IN ({quoted})")
    return {row["sample_id"]: row for row in found.to_pylist()}


def _first_turn(messages: list[dict[str, str]], role: str) -> str:
    text = next((turn["content"] for turn in messages if turn["role"] == role), "")
    # The image stands beside the text: its mark in the text would only be noise.
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
