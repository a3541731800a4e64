"""Scores as bytes, on their way from the process that made them to the one that commits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bye_audit.schema import ANSWER_LOGP_COLUMNS, ScoreStatus

if TYPE_CHECKING:
    from bye_audit.model.samples import SampleScore, TurnScore

_TURN = pa.struct(
    [
        ("turn", pa.int64()),
        ("num_image_tokens", pa.int64()),
        ("entropy_L", pa.list_(pa.float64())),
        ("image_mass_L", pa.list_(pa.float64())),
        ("answer_logp", pa.float64()),
        ("answer_logp_base", pa.float64()),
    ]
)


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
            **{
                name: pa.array([getattr(s, name) for s in scores], pa.float64())
                for name in ANSWER_LOGP_COLUMNS
            },
            "later_turns": pa.array(
                [[asdict(turn) for turn in s.later_turns] for s in scores], pa.list_(_TURN)
            ),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_scores(packed: bytes) -> list[SampleScore]:
    """Give back what `pack_scores` was given."""
    from bye_audit.model.samples import SampleScore

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
                **row
                | {
                    "status": ScoreStatus(row["status"]),
                    "later_turns": tuple(_turn(turn) for turn in row["later_turns"]),
                },
                entropy_L=entropy,
                image_mass_L=mass,
                heads_SLH=heads.reshape(4, num_layers, -1) if num_layers else np.empty((4, 0, 0)),
            )
        )
    return scores


def _turn(stored: dict[str, Any]) -> TurnScore:
    from bye_audit.model.samples import TurnScore

    arrays = {name: np.array(stored[name], dtype=float) for name in ("entropy_L", "image_mass_L")}
    return TurnScore(**stored | arrays)


def _as_numpy(row: pa.ListScalar) -> Any:
    return row.values.to_numpy(zero_copy_only=False) if row.is_valid else None
