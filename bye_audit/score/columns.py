"""Scores as Arrow columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.schema import ScoreStatus

if TYPE_CHECKING:
    from bye_audit.model.scoring import SampleScore


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
        columns[schema.entropy_column(layer)] = _nulls_for_nan(entropies[:, layer])
        columns[schema.image_mass_column(layer)] = _nulls_for_nan(masses[:, layer])
    for name in ("answer_logp", "answer_logp_base"):
        columns[name] = _nulls_for_nan(np.array([getattr(s, name) for s in scores], dtype=float))
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


def pack_scores(scores: list[SampleScore]) -> bytes:
    """Make scores ready to be sent to another process, with heads as precise as they are stored."""
    heads = [s.heads_SLH.astype(np.float16).reshape(-1) for s in scores]
    doubles = pa.list_(pa.float64())
    table = pa.table(
        {
            "sample_id": pa.array([s.sample_id for s in scores], pa.string()),
            "status": pa.array([str(s.status) for s in scores], pa.string()),
            "error": pa.array([s.error for s in scores], pa.string()),
            "num_image_tokens": pa.array([s.num_image_tokens for s in scores], pa.int64()),
            "entropy_L": pa.array([s.entropy_L for s in scores], doubles),
            "image_mass_L": pa.array([s.image_mass_L for s in scores], doubles),
            "heads_SLH": pa.array(heads, pa.list_(pa.float16())),
            "answer_logp": pa.array([s.answer_logp for s in scores], pa.float64()),
            "answer_logp_base": pa.array([s.answer_logp_base for s in scores], pa.float64()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_scores(packed: bytes) -> list[SampleScore]:
    """Give back what `pack_scores` was given."""
    from bye_audit.model.scoring import SampleScore

    table = pa.ipc.open_stream(packed).read_all()
    lists = ("entropy_L", "image_mass_L", "heads_SLH")
    scores = []
    for row, entropy, mass, heads in zip(
        table.drop_columns(list(lists)).to_pylist(),
        *(map(_as_numpy, table[name]) for name in lists),
        strict=True,
    ):
        num_layers = 0 if entropy is None else len(entropy)
        scores.append(
            SampleScore(
                **row | {"status": ScoreStatus(row["status"])},
                entropy_L=entropy,
                image_mass_L=mass,
                heads_SLH=heads.reshape(4, num_layers, -1) if num_layers else np.empty((4, 0, 0)),
            )
        )
    return scores


def _as_numpy(row: pa.ListScalar) -> Any:
    return row.values.to_numpy(zero_copy_only=False) if row.is_valid else None


def _nulls_for_nan(values: NDArray[Any]) -> pa.Array:
    return pa.array(values.astype(np.float32), pa.float32(), mask=~np.isfinite(values))
