"""Scores on their way into the tables, and what is told of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bye_audit import schema
from bye_audit.errors import ModelError
from bye_audit.schema import ScoreStatus
from bye_audit.score.columns import heads_table, samples_table, turns_table
from bye_audit.store.tables import AuditTables

if TYPE_CHECKING:
    from bye_audit.model.samples import SampleScore

# So many samples may fail before the first one succeeds.
_MOST_FAILURES = 500


@dataclass(slots=True)
class ScoreSummary:
    """What became of the samples this call looked at, and how all of them stand."""

    run_id: str
    num_ok: int = 0
    num_not_scorable: int = 0
    num_errors: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    """Of these, spent in the model; the rest is reading, waiting and committing. With Ray, the sum
    over all workers, which may be more."""
    check: str | None = None
    """What the comparison with eager attention found, where it was asked for."""
    reuses_prefixes: bool = False
    """Whether images were computed once for all their questions."""
    totals: dict[str, int] = field(default_factory=dict)
    """Samples of the whole audit by status."""

    @property
    def num_done(self) -> int:
        """Samples this call looked at."""
        return self.num_ok + self.num_not_scorable + self.num_errors


class Ledger:
    """Counts scores and commits them, at most ``commit_seconds`` after they were made.

    Parameters
    ----------
    tables
        The audit; nobody else writes scores to it meanwhile.
    summary
        Where the counts go.
    num_layers
        Decoder layers of the model.
    model_name
        For the message if it fails on everything.
    commit_seconds
        Least time between two commits.
    """

    def __init__(
        self,
        tables: AuditTables,
        summary: ScoreSummary,
        num_layers: int,
        model_name: str,
        commit_seconds: float,
    ) -> None:
        self._tables = tables
        self._summary = summary
        self._num_layers = num_layers
        self._model_name = model_name
        self._commit_seconds = commit_seconds
        self._waiting: list[SampleScore] = []
        self._committed = time.monotonic()
        self._has_committed = False

    def add(self, scored: list[SampleScore]) -> None:
        """Take scores, count them, and commit if it is time.

        Raises
        ------
        ModelError
            If the first dozens of samples failed, every one: a model that can score nothing must
            not mark a whole dataset as broken.
        """
        self._waiting += scored
        for score in scored:
            if score.status == ScoreStatus.OK:
                self._summary.num_ok += 1
            elif score.status == ScoreStatus.ERROR:
                self._summary.num_errors += 1
            else:
                self._summary.num_not_scorable += 1
        self._refuse_all_failing()
        if time.monotonic() - self._committed >= self._commit_seconds:
            self.commit()

    def _refuse_all_failing(self) -> None:
        num_errors = self._summary.num_errors
        if self._summary.num_ok or self._has_committed or num_errors <= _MOST_FAILURES:
            return
        reason = next(s.error for s in self._waiting if s.status == ScoreStatus.ERROR)
        raise ModelError(
            f"{self._model_name} failed on all of the first {num_errors} samples: {reason}",
            hint="Nothing was stored. Try another model or a smaller --batch-tokens.",
        )

    def commit(self) -> None:
        """Write what waits: heads first, since the status is what says that a sample is done."""
        self._committed = time.monotonic()
        if not self._waiting:
            return
        scored = [score for score in self._waiting if score.status == ScoreStatus.OK]
        run_id = self._summary.run_id
        self._tables.append_head_scores(heads_table(scored, run_id))
        self._tables.append_optional(schema.TURN_SCORES, turns_table(scored, run_id))
        self._tables.update_samples(samples_table(self._waiting, run_id, self._num_layers))
        self._waiting = []
        self._has_committed = True
