"""Stage 3: measure every sample with the provisional model."""

from __future__ import annotations

from bye_audit.score.ledger import ScoreSummary
from bye_audit.score.stage import attention_maps, score_samples

__all__ = ["ScoreSummary", "attention_maps", "score_samples"]
