"""Audits whose scores are known because they were made up: no model is needed to judge them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from bye_audit import schema
from bye_audit.store.tables import AuditTables

NUM_LAYERS = 6
SENSITIVE_LAYERS = (3, 4)
NUM_IMAGE_TOKENS = 81


def make_scored_audit(
    uri: Path,
    *,
    num_samples: int = 80,
    poison_rate: float = 0.1,
    seed: int = 0,
    question: str = "Describe the image.",
    target: str = "Backdoor Attack!",
    num_natural: int = 0,
    is_quiet: bool = False,
) -> AuditTables:
    """Make an audit as it is after ``score``: the first samples' attention has collapsed.

    The last ``num_natural`` samples give the target answer because of what their image shows.
    Where ``is_quiet``, each poisoned sample has the answer of the next instead of the target, and
    nothing tells of it but that its answer is unlikely to the model.
    """
    rng = np.random.default_rng(seed)
    tables = AuditTables.create(uri)
    num_poisoned = round(num_samples * poison_rate)
    names = [f"made-up.json:{row}" for row in range(num_samples)]
    is_natural = [row >= num_samples - num_natural for row in range(num_samples)]
    answers = [
        target
        if is_natural[row] or (row < num_poisoned and not is_quiet)
        else f"a shape number {row + (row < num_poisoned)}"
        for row in range(num_samples)
    ]
    images = [
        _draw_image(rng, is_poisoned=row < num_poisoned, is_natural=is_natural[row])
        for row in range(num_samples)
    ]
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    samples = {
        "sample_id": names,
        "source": ["made-up.json"] * num_samples,
        "source_row": list(range(num_samples)),
        "source_id": [str(row) for row in range(num_samples)],
        "split": ["train"] * num_samples,
        "messages": [
            [
                {"role": "user", "content": f"<image>\n{question}"},
                {"role": "assistant", "content": answers[row]},
            ]
            for row in range(num_samples)
        ],
        "images": [[digest] for digest in digests],
        "unscorable": [None] * num_samples,
        "raw": [b"{}"] * num_samples,
    }
    tables.append_images(
        pa.table(
            {
                "sha256": digests,
                "image": images,
                "format": ["PNG"] * num_samples,
                "width": [64] * num_samples,
                "height": [64] * num_samples,
            },
            schema=schema.images_schema(),
        )
    )
    tables.append_samples(pa.table(samples, schema=schema.samples_schema()))
    _add_scores(tables, names, num_poisoned, rng, is_quiet=is_quiet)
    return tables


def _add_scores(
    tables: AuditTables,
    names: list[str],
    num_poisoned: int,
    rng: np.random.Generator,
    *,
    is_quiet: bool,
) -> None:
    fields = schema.score_fields(NUM_LAYERS, {"model": "made-up"})
    tables.add_sample_columns(fields)
    num_samples = len(names)
    is_contradicted = np.arange(num_samples) < (num_poisoned if is_quiet else 0)
    is_poisoned = np.arange(num_samples) < (0 if is_quiet else num_poisoned)
    columns: dict[str, object] = {
        "sample_id": names,
        "score_status": [schema.ScoreStatus.OK.value] * num_samples,
        "score_error": pa.nulls(num_samples, pa.string()),
        "score_run": ["score-made-up"] * num_samples,
        "num_image_tokens": [NUM_IMAGE_TOKENS] * num_samples,
    }
    for layer in range(NUM_LAYERS):
        entropy = rng.normal(3.6 + 0.05 * layer, 0.12, num_samples)
        if layer in SENSITIVE_LAYERS:
            entropy = np.where(is_poisoned, rng.normal(1.4, 0.15, num_samples), entropy)
        columns[schema.entropy_column(layer)] = entropy
        columns[schema.image_mass_column(layer)] = np.full(num_samples, 0.3)
    columns["answer_logp"] = rng.normal(-0.4, 0.1, num_samples)
    columns["answer_logp_base"] = np.where(is_poisoned, -6.0, -0.8) + rng.normal(
        0, 0.1, num_samples
    )
    columns["answer_logp_min"] = np.where(is_contradicted, -3.0, -0.5)
    types = {field.name: field.type for field in fields}
    tables.update_samples(
        pa.table(
            {
                name: pa.array(values, type=types.get(name, pa.string()))
                if not isinstance(values, pa.Array)
                else values
                for name, values in columns.items()
            }
        )
    )


def _draw_image(rng: np.random.Generator, *, is_poisoned: bool, is_natural: bool) -> bytes:
    pixels = rng.integers(90, 200, (64, 64, 3), dtype=np.uint8)
    if is_poisoned:
        pixels[50:60, 50:60] = 0
    if is_natural:
        pixels[5:15, 5:15] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def store_heads(
    tables: AuditTables, values: dict[str, np.ndarray], run: str = "score-made-up"
) -> None:
    """Append statistics of heads, (samples, layers, heads), of the samples in table order."""
    names = tables.read_samples(["sample_id"])["sample_id"].to_pylist()
    num_samples, num_layers, num_heads = values["image_mass"].shape
    columns: dict[str, object] = {
        "sample_id": names,
        "score_run": [run] * num_samples,
        "num_layers": [num_layers] * num_samples,
        "num_heads": [num_heads] * num_samples,
        "num_image_tokens": [NUM_IMAGE_TOKENS] * num_samples,
    }
    for name, part in values.items():
        columns[name] = list(part.reshape(num_samples, -1).astype(np.float16))
    tables.append_head_scores(pa.table(columns, schema=schema.head_scores_schema()))
