"""Scores as Arrow columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from bye_audit import schema
from bye_audit.store.columns import nulls_for_nan

if TYPE_CHECKING:
    from bye_audit.model.samples import SampleScore


def samples_table(scores: list[SampleScore], run_id: str, num_layers: int) -> pa.Table:
    """Lay scores out as an update of ``samples``, keyed by ``sample_id``; NaN becomes null."""
    missing = np.full(num_layers, np.nan)
    entropies = np.array([missing if s.entropy_L is None else s.entropy_L for s in scores])
    masses = np.array([missing if s.image_mass_L is None else s.image_mass_L for s in scores])
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array([s.sample_id for s in scores], pa.string()),
        "score_status": pa.array([str(s.status) for s in scores], pa.string()),
        "score_error": pa.array([s.error for s in scores], pa.string()),
        "score_run": pa.array([run_id] * len(scores), pa.string()),
        "num_image_tokens": pa.array([s.num_image_tokens for s in scores], pa.int32()),
    }
    for layer in range(num_layers):
        columns[schema.entropy_column(layer)] = nulls_for_nan(entropies[:, layer])
        columns[schema.image_mass_column(layer)] = nulls_for_nan(masses[:, layer])
    for name in schema.ANSWER_LOGP_COLUMNS:
        columns[name] = nulls_for_nan([getattr(s, name) for s in scores])
    return pa.table(columns)


def heads_table(scores: list[SampleScore], run_id: str) -> pa.Table:
    """Lay per-head statistics out as rows of ``head_scores``."""
    fields = schema.head_scores_schema()
    if not scores:
        return fields.empty_table()
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array([s.sample_id for s in scores], pa.string()),
        "score_run": pa.array([run_id] * len(scores), pa.string()),
        "num_layers": pa.array([s.heads_SLH.shape[1] for s in scores], pa.int32()),
        "num_heads": pa.array([s.heads_SLH.shape[2] for s in scores], pa.int32()),
        "num_image_tokens": pa.array([s.num_image_tokens for s in scores], pa.int32()),
    }
    names = ("image_entropy", "system_mass", "image_mass", "text_mass")
    for index, name in enumerate(names):
        lists = [s.heads_SLH[index].reshape(-1) for s in scores]
        values = np.concatenate(lists).astype(np.float16)
        offsets = np.cumsum([0, *(len(part) for part in lists)])
        columns[name] = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(values, pa.float16(), mask=np.isnan(values))
        )
    return pa.table(columns, schema=fields)


def turns_table(scores: list[SampleScore], run_id: str) -> pa.Table:
    """Lay later turns out as rows of ``turn_scores``; NaN becomes null."""
    turns = [(score.sample_id, turn) for score in scores for turn in score.later_turns]
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array([sample_id for sample_id, _ in turns], pa.string()),
        "score_run": pa.array([run_id] * len(turns), pa.string()),
        "turn": pa.array([turn.turn for _, turn in turns], pa.int32()),
        "num_image_tokens": pa.array([turn.num_image_tokens for _, turn in turns], pa.int32()),
    }
    for name, values in {
        "entropy": [turn.entropy_L for _, turn in turns],
        "image_mass": [turn.image_mass_L for _, turn in turns],
    }.items():
        rows = [nulls_for_nan(row).to_pylist() for row in values]
        columns[name] = pa.array(rows, pa.list_(pa.float32()))
    for name in ("answer_logp", "answer_logp_base"):
        columns[name] = nulls_for_nan([getattr(t, name) for _, t in turns])
    return pa.table(columns, schema=schema.turn_scores_schema())
