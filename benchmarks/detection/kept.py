"""What a detector keeps, named by its contents: equal splits are trained on once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache

from benchmarks.detection.cells import MadeCell
from bye_audit.core.detection import Detection
from bye_audit.finetune import NOT_IN_FINGERPRINT
from bye_audit.model.files import model_digest
from bye_audit.pipeline.provisional import resolve_model
from bye_audit.schema import ScoreStatus
from bye_audit.store.evidence import ScoredSamples
from bye_audit.store.tables import AuditTables


class SampleContents:
    """Texts and images of an audit's samples, each as a digest.

    A training sees nothing else: two splits with the same contents in the same order make the same
    adapter, whatever was planted in the samples that are gone.
    """

    def __init__(self, tables: AuditTables) -> None:
        columns = ["sample_id", "source", "source_row", "messages", "images"]
        scored = "score_status" in tables.sample_columns()
        rows = tables.read_samples([*columns, *(["score_status"] if scored else [])]).to_pylist()
        rows.sort(key=lambda row: (row["source"], row["source_row"]))
        self.source_row = {row["sample_id"]: int(row["source_row"]) for row in rows}
        self._digest = {
            row["sample_id"]: hashlib.sha256(
                json.dumps([row["messages"], row["images"]], sort_keys=True).encode()
            ).digest()
            for row in rows
        }
        # Texts without an image cannot carry its trigger, and filter keeps them.
        self._unscored = {
            row["sample_id"] for row in rows if row.get("score_status") == ScoreStatus.NOT_SCORABLE
        }

    def digest_of_all(self) -> str:
        """Name the whole."""
        return self._digest_of(set(self._digest))

    def digest_of_kept(self, scored: ScoredSamples, detection: Detection) -> str:
        """Name what ``filter`` would keep after this detection."""
        is_kept_N = detection.is_evaluated_N & ~detection.is_suspicious_N
        names = zip(scored.sample_id.to_pylist(), is_kept_N.tolist(), strict=True)
        return self._digest_of({name for name, is_kept in names if is_kept} | self._unscored)

    def _digest_of(self, names: set[str]) -> str:
        whole = hashlib.sha256()
        for name, digest in self._digest.items():
            if name in names:
                whole.update(digest)
        return whole.hexdigest()[:16]


def training_digest(made: MadeCell, kept: str) -> str:
    """Name the training on what was kept: its contents, the settings and the base model."""
    settings = asdict(made.cell.finetune_config())
    what = {
        "kept": kept,
        "settings": {k: v for k, v in settings.items() if k not in NOT_IN_FINGERPRINT},
        "model": _model_digest(made.cell.model),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _model_digest(model: str) -> str:
    return model_digest(resolve_model(model))
