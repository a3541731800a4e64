"""Every registered detector's word on a copy, beside the truth and beside its word without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bye_audit.canary.copying import Truth
from bye_audit.canary.results import Before, DetectorOutcome
from bye_audit.canary.subjects import Subjects
from bye_audit.config import DetectConfig
from bye_audit.core.detectors import DETECTORS, Detection, Detector
from bye_audit.core.metrics import precision_recall_f1
from bye_audit.errors import MissingDependencyError, NumericError, StageNotRunError
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision
from bye_audit.store.evidence import ScoredSamples, read_evidence
from bye_audit.store.tables import AuditTables

# What keeps one detector from judging is no fault of the others.
_CANNOT_JUDGE = (StageNotRunError, NumericError, MissingDependencyError)


def detectors_to_try() -> dict[str, Detector]:
    """Give the registered detectors whose evidence the canary gathers."""
    return {
        name: detector
        for name, detector in DETECTORS.items()
        if detector.role in ("witness", "judge")
    }


class Word(NamedTuple):
    """What a detector says of an audit: its decision, and the ids of the samples it flags."""

    decision: Decision
    flagged: frozenset[str]


@dataclass
class WordBefore:
    """What each detector says of the user's audit as it is scored now, found out when asked."""

    tables: AuditTables
    config: DetectConfig
    _scored: ScoredSamples | None = field(default=None, init=False)
    _is_unknown: bool = field(default=False, init=False)
    _found: dict[str, Word | None] = field(default_factory=dict, init=False)

    def of(self, detector: Detector) -> Word | None:
        """Ask a detector, once; None where it cannot say."""
        if detector.name not in self._found:
            self._found[detector.name] = self._ask(detector)
        return self._found[detector.name]

    def _ask(self, detector: Detector) -> Word | None:
        if self._is_unknown:
            return None
        try:
            if self._scored is None:
                self._scored = read_evidence(self.tables)
        except _CANNOT_JUDGE:
            self._is_unknown = True
            return None
        try:
            detection = detector.detect(self._scored.evidence, self.config)
        except _CANNOT_JUDGE:
            return None
        return Word(detection.decision, _flagged_ids(self._scored, detection))


def judge_copy(
    copy: AuditTables,
    truth: Truth,
    subjects: Subjects,
    before: WordBefore,
    config: DetectConfig,
    progress: Progress = SILENT,
) -> tuple[DetectorOutcome, ...]:
    """Let every detector judge a scored copy and compare it with the truth.

    Parameters
    ----------
    copy
        After ``score``.
    truth
        What was planted in it.
    subjects
        Names the samples that were suspected already.
    before
        What the detectors say without the canary.
    config
        Settings of the detection.
    progress
        Where to report.

    Returns
    -------
    tuple[DetectorOutcome, ...]
        One each, also of those that lack their evidence.
    """
    detectors = detectors_to_try()
    scored = read_evidence(copy)
    yardstick = _Yardstick.of(copy, truth, subjects)
    found = []
    with progress.task("Detecting", len(detectors), "detectors") as task:
        for name, detector in detectors.items():
            try:
                detection = detector.detect(scored.evidence, config)
            except _CANNOT_JUDGE as error:
                found.append(
                    DetectorOutcome(detector=name, decision=None, explanation=error.message)
                )
            else:
                flagged = _flagged_ids(scored, detection)
                found.append(yardstick.measure(name, detection, flagged, before.of(detector)))
            task.advance(note=name)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """The truth about a copy, for as many detectors as there are."""

    planted: frozenset[str]
    decoys: frozenset[str]
    suspected: frozenset[str]
    counted: list[str]
    """Samples that are either planted or the user's own and beyond suspicion."""

    @classmethod
    def of(cls, copy: AuditTables, truth: Truth, subjects: Subjects) -> _Yardstick:
        # All samples of the copy, not only the scored ones: poison that escapes scoring is missed.
        ids = copy.read_samples(["sample_id"])["sample_id"].to_pylist()
        apart = truth.decoy_ids | subjects.suspected_ids
        counted = [sample_id for sample_id in ids if sample_id not in apart]
        return cls(truth.planted_ids, truth.decoy_ids, subjects.suspected_ids, counted)

    def measure(
        self, name: str, detection: Detection, flagged: frozenset[str], word: Word | None
    ) -> DetectorOutcome:
        """Compare what a detector flags with the truth, and with its word without the canary."""
        is_flagged = [sample_id in flagged for sample_id in self.counted]
        is_planted = [sample_id in self.planted for sample_id in self.counted]
        alarms = flagged - self.planted - self.decoys - self.suspected
        return DetectorOutcome(
            detector=name,
            decision=detection.decision,
            explanation=detection.explanation,
            metrics=precision_recall_f1(is_flagged, is_planted),
            num_suspected_flagged=len(flagged & self.suspected),
            num_decoys_flagged=len(flagged & self.decoys),
            before=None
            if word is None
            else Before(
                decision=word.decision,
                num_flagged=len(word.flagged),
                num_shared=len(alarms & word.flagged),
            ),
        )


def _flagged_ids(scored: ScoredSamples, detection: Detection) -> frozenset[str]:
    chosen = scored.sample_id.take(np.flatnonzero(detection.is_suspicious_N))
    return frozenset(chosen.to_pylist())
