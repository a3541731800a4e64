"""A small real audit: sources read by ingest, scores made up as if a model had been there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from support.sources import llava_record, write_llava_source

from bye_audit import schema
from bye_audit.ingest import ingest_samples
from bye_audit.store.tables import AuditTables

NUM_LAYERS = 4
NUM_SAMPLES = 40
NUM_POISONED = 4
TEXT_ONLY_ID = f"train.json:{NUM_SAMPLES}"
BROKEN_ID = "train.json:5"
ADAPTER_DIGEST = "ad" * 32


def make_ingested_audit(folder: Path) -> AuditTables:
    """Ingest 40 scenes, one text-only record and one record whose image is missing."""
    extra = [
        llava_record(900, "Paris.", None),
        llava_record(901, "nothing", "images/missing.png"),
    ]
    source = write_llava_source(folder / "source", NUM_SAMPLES, extra=extra)
    tables = AuditTables.create(folder / "audit")
    ingest_samples(tables, [source])
    return tables


def collapsed_entropy(
    num_samples: int = NUM_SAMPLES, num_poisoned: int = NUM_POISONED
) -> np.ndarray:
    """Make entropies whose layer 2 has collapsed for the first samples."""
    rng = np.random.default_rng(7)
    entropy_NL = rng.normal(3.4, 0.1, (num_samples, NUM_LAYERS))
    entropy_NL[:num_poisoned, 2] = rng.normal(1.2, 0.1, num_poisoned)
    return entropy_NL


def store_scores(
    tables: AuditTables,
    entropy_NL: np.ndarray,
    *,
    gain_N: np.ndarray | None = None,
    mass_NL: np.ndarray | None = None,
    broken_ids: Sequence[str] = (),
) -> None:
    """Fill the score columns: a row of entropies for each sample with an image, in order."""
    metadata = {"model": "made-up", "model_digest": "0d" * 32, "adapter_digest": ADAPTER_DIGEST}
    fields = schema.score_fields(entropy_NL.shape[1], metadata)
    tables.add_sample_columns(fields)
    samples = tables.read_samples(["sample_id", "images"])
    rows = []
    scored = iter(range(len(entropy_NL)))
    for sample in samples.to_pylist():
        row: dict[str, object] = {"sample_id": sample["sample_id"], "score_run": "score-1"}
        if not sample["images"]:
            row["score_status"] = schema.ScoreStatus.NOT_SCORABLE.value
        elif sample["sample_id"] in broken_ids:
            next(scored)
            row |= {"score_status": schema.ScoreStatus.ERROR.value, "score_error": "made to fail"}
        else:
            row |= {"score_status": schema.ScoreStatus.OK.value, "num_image_tokens": 81}
            number = next(scored)
            for layer, value in enumerate(entropy_NL[number]):
                row[schema.entropy_column(layer)] = None if math.isnan(value) else float(value)
            if mass_NL is not None:
                for layer, mass in enumerate(mass_NL[number]):
                    row[schema.image_mass_column(layer)] = float(mass)
            if gain_N is not None:
                row |= {"answer_logp": float(gain_N[number]) - 4.0, "answer_logp_base": -4.0}
        rows.append(row)
    id_field = pa.field("sample_id", pa.string())
    tables.update_samples(pa.Table.from_pylist(rows, schema=pa.schema([id_field, *fields])))


def make_scored_source_audit(folder: Path) -> AuditTables:
    """Make an audit of real records with collapsed scores, complete as after ``score``."""
    tables = make_ingested_audit(folder)
    gain_N = np.where(np.arange(NUM_SAMPLES) < NUM_POISONED, 9.0, 0.2)
    gain_N = gain_N + np.random.default_rng(3).normal(0, 0.1, NUM_SAMPLES)
    store_scores(tables, collapsed_entropy(), gain_N=gain_N)
    tables.record_run("finetune", {"adapter_digest": ADAPTER_DIGEST, "learning_rate": 2e-4})
    tables.record_run("score", {"model": "made-up", "revision": None})
    return tables
