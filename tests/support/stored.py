"""Audits filled through the store's own doors, with samples a stage finds hard."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from bye_audit import schema
from bye_audit.mini import scenes
from bye_audit.store.tables import AuditTables


def make_audit(folder: Path, num_samples: int = 8, *, seed: int = 0) -> AuditTables:
    """Make an audit of captioned scenes."""
    tables = AuditTables.create(folder)
    rng = np.random.default_rng(seed)
    for number in range(num_samples):
        scene = scenes.draw_scene(rng)
        add_sample(
            tables, f"s:{number}", scenes.CAPTION_PROMPT, scenes.caption(scene), encode(scene.image)
        )
    return tables


def encode(image: Image.Image) -> bytes:
    """Give an image's PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def add_sample(
    tables: AuditTables,
    sample_id: str,
    question: str,
    answer: str,
    image: bytes | None,
    more: tuple[str, ...] = (),
    unscorable: str | None = None,
) -> None:
    """Append one sample, whatever its image bytes are."""
    digests = [] if image is None else [hashlib.sha256(image).hexdigest()]
    if image is not None:
        stored: dict[str, Any] = {
            "sha256": digests[0],
            "image": image,
            "format": "PNG",
            "width": 1,
            "height": 1,
        }
        tables.append_images(pa.Table.from_pylist([stored], schema=schema.images_schema()))
    row = {
        "sample_id": sample_id,
        "source": "s",
        "source_row": int(sample_id.rpartition(":")[2]),
        "source_id": None,
        "split": "train",
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            *(
                {"role": ("user", "assistant")[number % 2], "content": text}
                for number, text in enumerate(more)
            ),
        ],
        "images": digests,
        "unscorable": unscorable,
        "raw": b"{}",
    }
    tables.append_samples(pa.Table.from_pylist([row], schema=schema.samples_schema()))
