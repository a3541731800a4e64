"""Workers of Ray that misbehave; here, because Ray's processes import them by name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bye_audit.model.samples import SampleScore
from bye_audit.score.ray_worker import ScoreWorker


class DyingWorker(ScoreWorker):
    """Takes its process down with every window it is sent."""

    def score(self, rows: Sequence[int]) -> tuple[list[SampleScore], float]:
        """Die as the system's memory killer would have it."""
        os._exit(137)
