"""Small datasets in every source format, drawn from the scenes the embedded model knows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bye_audit.mini.scenes import CAPTION_PROMPT, caption, draw_scene


def draw_png(seed: int) -> tuple[bytes, str]:
    """Draw a scene; give its PNG bytes and its caption."""
    scene = draw_scene(np.random.default_rng(seed))
    buffer = io.BytesIO()
    scene.image.save(buffer, format="PNG")
    return buffer.getvalue(), caption(scene)


def llava_record(number: int, answer: str, image: str | None) -> dict[str, Any]:
    """Build one LLaVA record, text-only without an image."""
    question = CAPTION_PROMPT if image is None else f"<image>\n{CAPTION_PROMPT}"
    record: dict[str, Any] = {"id": number}
    if image is not None:
        record["image"] = image
    record["conversations"] = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": answer},
    ]
    return record


def write_llava_source(
    folder: Path,
    num_samples: int = 8,
    *,
    seed: int = 0,
    extra: list[Any] | None = None,
    name: str = "train.json",
    indent: int | None = None,
) -> Path:
    """Write a LLaVA JSON file and its images, and give the file's path.

    Parameters
    ----------
    folder
        Made if missing; images go to ``images/`` below it.
    num_samples
        Records with one image each.
    seed
        Of the scenes.
    extra
        Further records, written as they are after the good ones.
    name
        Of the JSON file.
    indent
        As for ``json.dumps``.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records: list[Any] = []
    for number in range(num_samples):
        content, answer = draw_png(seed * 100_000 + number)
        path = f"images/scene_{seed}_{number:04d}.png"
        (folder / path).write_bytes(content)
        records.append(llava_record(number, answer, path))
    source = folder / name
    source.write_text(json.dumps(records + (extra or []), indent=indent), encoding="utf-8")
    return source


def chat_record(content: bytes, answer: str) -> dict[str, Any]:
    """Build one OpenAI chat record with the image inside it."""
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": CAPTION_PROMPT},
                ],
            },
            {"role": "assistant", "content": answer},
        ]
    }


def write_chat_source(
    folder: Path, num_samples: int = 4, *, seed: int = 0, extra: list[str] | None = None
) -> Path:
    """Write chat JSONL with embedded images; ``extra`` lines are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(chat_record(*draw_png(seed * 100_000 + number))) for number in range(num_samples)
    ]
    source = folder / "train.jsonl"
    source.write_text("\n".join(lines + (extra or [])) + "\n", encoding="utf-8")
    return source


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PARTS_TYPE = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))


def write_parquet_source(folder: Path, num_samples: int = 4, *, seed: int = 0) -> Path:
    """Write a Parquet file as TRL reads it: ``images`` and ``messages`` of content parts."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_samples):
        content, answer = draw_png(seed * 100_000 + number)
        question = [{"type": "image", "text": None}, {"type": "text", "text": CAPTION_PROMPT}]
        rows.append(
            {
                "id": f"row-{number}",
                "images": [{"bytes": content, "path": f"{number}.png"}],
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": [{"type": "text", "text": answer}]},
                ],
            }
        )
    table_schema = pa.schema(
        [
            ("id", pa.string()),
            ("images", pa.list_(IMAGE_TYPE)),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", PARTS_TYPE)]))),
        ]
    )
    source = folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=table_schema), source)
    return source
