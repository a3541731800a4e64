"""An audit to plant canaries in, and what to compare of it and its copies."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from support.sources import llava_record, write_llava_source

from bye_audit import Audit, CanaryConfig, DetectConfig, FinetuneConfig
from bye_audit.schema import Verdict, verdict_fields
from bye_audit.store.tables import AuditTables

QUICK = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, lora_rank=2)
DETECT = DetectConfig(min_samples=8)
ONE = CanaryConfig(attacks=("patch",), rates=(0.2,), relative_size=1 / 4)
NUM_SCENES, NUM_HELD_OUT = 40, 2


def make_finetuned_audit(folder: Path, model_dir: Path) -> Audit:
    """Make an audit of scenes, a text without image, and a conversation of two questions."""
    second = llava_record(901, "a red circle", "images/scene_0_0000.png")
    second["conversations"] += [
        {"from": "human", "value": "What colour is it?"},
        {"from": "gpt", "value": "red"},
    ]
    extra = [llava_record(900, "Paris.", None), second]
    source = write_llava_source(folder / "data", NUM_SCENES - 1, extra=extra)
    return Audit.open(folder / "audit").ingest(source).finetune(model_dir, QUICK)


def suspect(tables: AuditTables, names: list[str]) -> None:
    """Give samples the verdict to remove them, and the others the one to keep them."""
    tables.add_sample_columns(verdict_fields())
    everyone = tables.read_samples(["sample_id"])["sample_id"].to_pylist()
    verdicts = [str(Verdict.REMOVE if name in names else Verdict.KEEP) for name in everyone]
    tables.update_samples(pa.table({"sample_id": everyone, "verdict": verdicts}))


def contents_of(tables: AuditTables) -> dict[str, dict[str, Any]]:
    """Give what a model gets to see of every sample, by id."""
    columns = ["sample_id", "messages", "images"]
    return {row["sample_id"]: row for row in tables.read_samples(columns).to_pylist()}


def digests_of(folder: Path) -> dict[str, str]:
    """Hash every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
