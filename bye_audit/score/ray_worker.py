"""What runs in a process of Ray: one provisional model that scores the windows it is sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import pyarrow as pa

from bye_audit import errors
from bye_audit.config import ScoreConfig
from bye_audit.score.wire import pack_scores, unpack_scores
from bye_audit.score.work import WindowReader, answers_wanted
from bye_audit.store.tables import AuditTables

if TYPE_CHECKING:
    from bye_audit.model.identity import ModelIdentity
    from bye_audit.model.samples import SampleScore
    from bye_audit.model.scoring import SampleScorer

ROWS = "rows"
_REPLY = pa.schema([("scores", pa.binary()), ("seconds", pa.float64()), ("failure", pa.string())])


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker has to know, on whichever machine it runs."""

    tables: AuditTables
    version: int
    model: str
    adapter_dir: Path | None
    trust_remote_code: bool
    identity: ModelIdentity
    config: ScoreConfig


class ScoreWorker:
    """Scores windows with a model of its own; commits nothing.

    Two calls may be under way in two threads: one reads its window while the other has the model.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._reading, self._scoring = Lock(), Lock()
        self._model: tuple[WindowReader, SampleScorer] | None = None

    def __call__(self, windows: pa.Table) -> Iterator[pa.Table]:
        """Answer each window of row numbers with one row, see `open_reply`."""
        for rows in windows[ROWS].to_pylist():
            try:
                scores, seconds = self.score(rows)
            except errors.ByeAuditError as error:
                # As data: Ray would wrap the error and print it on every level it passes.
                failure = [type(error).__name__, error.message, error.hint]
                yield _reply(None, 0.0, json.dumps(failure))
            else:
                yield _reply(pack_scores(scores), seconds, None)

    def score(self, rows: Sequence[int]) -> tuple[list[SampleScore], float]:
        """Score one window; give the seconds that the model took, too."""
        with self._reading:
            if self._model is None:
                self._model = self.open_model()
            reader, scorer = self._model
            samples = reader.read(rows)
        with self._scoring:
            started = time.monotonic()
            scores = [score for part in scorer.score(samples) for score in part]
            return scores, time.monotonic() - started

    def open_model(self) -> tuple[WindowReader, SampleScorer]:
        """Load the provisional model, and make sure that it is the one that is meant.

        Raises
        ------
        ModelError
            If it is another, or this machine cannot run it.
        """
        import torch

        from bye_audit.model.loading import load_model
        from bye_audit.model.scoring import SampleScorer

        assignment = self._assignment
        device = assignment.identity.device
        if device == "cuda" and not torch.cuda.is_available():
            raise errors.ModelError(
                "A Ray worker was given a GPU that its torch cannot use.",
                hint="Install a torch for GPUs on every machine, or give --gpus-per-worker 0.",
            )
        vlm = load_model(
            assignment.model,
            adapter_dir=assignment.adapter_dir,
            trust_remote_code=assignment.trust_remote_code,
            device=device,
        )
        found, wanted = vlm.identity, assignment.identity
        if (found.digest, found.adapter_digest) != (wanted.digest, wanted.adapter_digest):
            raise errors.ModelError(
                f"A Ray worker has other files under the name {wanted.name} than the machine that "
                "commits.",
                hint="Give every machine the same model and adapter, for one as id@revision.",
            )
        reader = WindowReader(
            assignment.tables,
            assignment.version,
            vlm.encoder,
            answers_wanted(assignment.config),
        )
        # Left open: the probe stays on the model for as long as the process lives.
        return reader, SampleScorer(vlm, assignment.config).__enter__()


def open_reply(reply: pa.Table) -> Iterator[tuple[list[SampleScore], float]]:
    """Give the scores of each window and the seconds they took; raise what a worker could not do.

    Raises
    ------
    ByeAuditError
        The worker's own error.
    """
    for row in reply.to_pylist():
        if row["failure"] is not None:
            kind, message, hint = json.loads(row["failure"])
            raise getattr(errors, kind)(message, hint=hint)
        yield unpack_scores(row["scores"]), row["seconds"]


def _reply(scores: bytes | None, seconds: float, failure: str | None) -> pa.Table:
    return pa.table([[scores], [seconds], [failure]], schema=_REPLY)
