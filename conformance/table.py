"""The survey as text, as JSON and as a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from conformance.survey import BOUND, REUSE_BOUND, Surveyed

_HEAD = (
    "architecture", "class", "layers", "image tokens", "way", "entropy", "mass", "in float32",
    "bfloat16", "float16", "prefix reuse",
)  # fmt: skip


def as_text(results: Sequence[Surveyed]) -> str:
    """Lay the table out in columns, with what was refused below it."""
    rows = [_HEAD, *(_cells(one) for one in results if one.measurement is not None)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines += [f"{one.name}: {one.refusal}" for one in results if one.refusal]
    return "\n".join([*(line.rstrip() for line in lines), _summary(results)])


def as_json(results: Sequence[Surveyed]) -> str:
    """Everything measured."""
    return json.dumps([asdict(one) for one in results], indent=2)


def as_page(results: Sequence[Surveyed]) -> str:
    """Write the page of the documentation."""
    measured = [one for one in results if one.measurement is not None]
    lines = [
        "# How exact the attention probe is, architecture by architecture",
        "",
        "Written by `python -m conformance --write docs/conformance.md`; "
        f"transformers {version('transformers')}, torch {version('torch').partition('+')[0]}, CPU.",
        "",
        "Each `image-text-to-text` class of transformers is built tiny, with random weights under",
        "which attention is far from uniform, and asked with text around the image, in padded",
        "batches, with several images, images of several sizes, none, and images so far back that",
        "windows have left them. What the probe reads with the model's own attention kernel in",
        "float64 is held against eager `output_attentions` of each prompt alone in float64:",
        "entropies of the head average and of every head (nats), masses on image and system.",
        "",
        f"* **exact**: both worst errors at most {BOUND:g}. {_summary(results)}",
        "* **in float32, bfloat16, float16**: worst entropy error where the model computes in that",
        "  precision. Most of it is the model's rounding, not the probe's, whose arithmetic is",
        "  float32 at least. float32 counts every head; the other two the head average.",
        "* **way**: `generic` needs nothing to be known of the model; `adapter` is an entry in",
        "  `bye_audit/model/families.py`.",
        "* **prefix reuse**: worst difference between questions packed behind one image and the",
        f"  same questions alone; used up to {REUSE_BOUND:g}. `off`: the model's build rules it",
        "  out or the difference is larger. A scorer checks this again on the real model.",
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|" + "---|" * len(_HEAD),
        *("| " + " | ".join(_cells(one)) + " |" for one in measured),
        "",
        "## Remarks",
        "",
        *(f"* {one.name}: {one.remark}." for one in measured if one.remark),
        "",
        "## Refused",
        "",
        *(f"* {one.name}: {one.refusal.rstrip('.')}." for one in results if one.refusal),
        "",
    ]
    return "\n".join(lines)


def _summary(results: Sequence[Surveyed]) -> str:
    measured = [one for one in results if one.measurement is not None]
    classes = {one.measurement.class_name for one in measured if one.measurement}
    exact = {one.measurement.class_name for one in measured if one.measurement and one.is_exact}
    return (
        f"{len(measured)} architectures of {len(classes)} classes were measured: "
        f"{sum(one.is_exact for one in measured)} ({len(exact)} classes) are exact, "
        f"{sum(one.reuses for one in measured)} can reuse the prefix."
    )


def _cells(one: Surveyed) -> tuple[str, ...]:
    found = one.measurement
    assert found is not None
    tokens = sorted(set(found.num_image_tokens))
    return (
        one.name,
        found.class_name,
        ",".join(map(str, found.layers)),
        f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]}-{tokens[-1]}",
        "generic" if found.is_generic else "adapter",
        f"{found.worst_entropy_all:.1e}",
        f"{found.worst_mass_all:.1e}",
        f"{max(found.single_entropy.values()):.1e}",
        f"{found.half_entropy['bfloat16']:.1e}",
        f"{found.half_entropy['float16']:.1e}",
        f"{found.reuse:.1e}" if one.reuses else "off",
    )
