"""False alarms: what detectors say of data in which nothing is planted.

Each clean cell is another dataset and another training; each is judged again on random halves of
its samples, so that a hundred runs do not cost a hundred trainings. Halves of one cell are not
independent: the table says how many cells there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.cells import MadeCell
from benchmarks.detection.judge import VARIANTS, can_judge
from bye_audit.core.detection import Evidence, HeadScores
from bye_audit.core.detectors import DETECTORS
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision
from bye_audit.store.evidence import read_evidence


def judge_halves(
    made: MadeCell, num_runs: int, progress: Progress = SILENT
) -> Iterator[dict[str, Any]]:
    """Judge random halves of a clean cell; one row a run and variant."""
    audit = made.audit()
    audit.confirm()
    evidence = read_evidence(audit.tables).evidence
    num_samples = len(evidence.entropy_NL)
    with progress.task(f"Halves of {made.cell.name}", num_runs) as task:
        for run in range(num_runs):
            rng = np.random.default_rng([made.cell.seed, run, 0xC1EA])
            rows = np.sort(rng.permutation(num_samples)[: num_samples // 2])
            half = take_rows(evidence, rows)
            for name, (detector, config) in VARIANTS.items():
                if not can_judge(detector, half):
                    continue
                detection = DETECTORS[detector].detect(half, config)
                yield {
                    "data": made.cell.data,
                    "seed": made.cell.seed,
                    "run": run,
                    "variant": name,
                    "decision": str(detection.decision),
                    "is_alarm": detection.decision is Decision.POISON_SUSPECTED,
                    "num_flagged": int(detection.is_suspicious_N.sum()),
                    "num_samples": len(rows),
                }
            task.advance()


def take_rows(evidence: Evidence, rows: NDArray[np.integer]) -> Evidence:
    """Give the evidence of some samples."""

    def some(values: Any) -> Any:
        return None if values is None else values[rows]

    return replace(
        evidence,
        entropy_NL=evidence.entropy_NL[rows],
        num_image_tokens_N=some(evidence.num_image_tokens_N),
        answer_logp_N=some(evidence.answer_logp_N),
        answer_logp_base_N=some(evidence.answer_logp_base_N),
        intervention_N=some(evidence.intervention_N),
        purified=None if evidence.purified is None else evidence.purified.take(rows),
        heads=None if evidence.heads is None else HeadRows(evidence.heads, rows),
        strata={name: strata.take(rows) for name, strata in evidence.strata.items()},
    )


class HeadRows:
    """Statistics of the heads of some samples."""

    def __init__(self, heads: HeadScores, rows: NDArray[np.integer]) -> None:
        self._heads = heads
        self._place = {int(row): place for place, row in enumerate(rows)}
        self.num_layers = heads.num_layers
        self.num_heads = heads.num_heads

    def batches(
        self, names: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.integer], dict[str, NDArray[np.float32]]]]:
        """Give the chosen rows of each batch, renumbered."""
        for rows, values in self._heads.batches(names):
            chosen = [index for index, row in enumerate(rows.tolist()) if row in self._place]
            if chosen:
                places = np.array([self._place[int(rows[index])] for index in chosen])
                yield places, {name: value[chosen] for name, value in values.items()}
