"""Evidence of an audit held in memory, whole or of some of its samples, to be judged many times.

Shapes: N = samples, L = decoder layers, H = heads of a layer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.detection import HEAD_STATISTICS, Evidence
from bye_audit.core.head_values import HeldHeadScores


def read_planted(folder: Path) -> tuple[Evidence, NDArray[np.bool_]]:
    """Hold the evidence of an audit that we have poisoned, and say which samples are poison.

    Parameters
    ----------
    folder
        What the demo, ``benchmarks.pipeline`` or ``benchmarks.detection`` left.
    """
    from bye_audit.store.evidence import read_evidence
    from bye_audit.store.tables import AuditTables

    tables = AuditTables.open(str(folder / "audit"))
    scored = read_evidence(tables)
    rows = tables.read_samples(["sample_id", "source_row"])
    row_of = dict(zip(rows["sample_id"].to_pylist(), rows["source_row"].to_pylist(), strict=True))
    planted = json.loads((folder / "ground_truth.json").read_text("utf-8"))["poisoned_rows"]
    source_rows = [row_of[name] for name in scored.sample_id.to_pylist()]
    return hold(scored.evidence), np.isin(source_rows, planted)


def hold(evidence: Evidence) -> Evidence:
    """Read once what detectors otherwise read each time they ask: heads and strata."""
    return replace(evidence, heads=_held_heads(evidence), strata=dict(evidence.strata))


def take_rows(held: Evidence, rows: NDArray[np.integer]) -> Evidence:
    """Keep some of the samples of held evidence."""

    def some(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[rows]

    heads = held.heads
    assert heads is None or isinstance(heads, HeldHeadScores), "hold() comes first"
    return replace(
        held,
        entropy_NL=held.entropy_NL[rows],
        image_mass_NL=some(held.image_mass_NL),
        num_image_tokens_N=some(held.num_image_tokens_N),
        answer_logp_N=some(held.answer_logp_N),
        answer_logp_base_N=some(held.answer_logp_base_N),
        intervention_N=some(held.intervention_N),
        purified=None if held.purified is None else held.purified.take(rows),
        heads=None if heads is None else heads.take(rows),
        strata={name: strata.take(rows) for name, strata in held.strata.items()},
    )


def _held_heads(evidence: Evidence) -> HeldHeadScores | None:
    heads = evidence.heads
    if heads is None or isinstance(heads, HeldHeadScores):
        return heads
    shape = (len(evidence.entropy_NL), heads.num_layers, heads.num_heads)
    values_NLH = {name: np.full(shape, np.nan, dtype=np.float32) for name in HEAD_STATISTICS}
    for rows, batch in heads.batches(HEAD_STATISTICS):
        for name in HEAD_STATISTICS:
            values_NLH[name][rows] = batch[name]
    return HeldHeadScores(values_NLH)
