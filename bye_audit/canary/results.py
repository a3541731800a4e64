"""What a canary measured, as objects and as JSON; fractions in [0, 1], positive means planted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bye_audit.canary.blindness import BlindRate, Sight, find_blind_rate, judge_sight
from bye_audit.canary.learning import Learning
from bye_audit.core.metrics import DetectionMetrics, Proportion
from bye_audit.schema import Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What a detector says of the same data without the canary.

    Parameters
    ----------
    decision
        About the audit as it is scored now.
    num_flagged
        Samples of the audit that it suspects.
    num_shared
        Of its false alarms in the copy, those that it suspects there too.
    """

    decision: Decision
    num_flagged: int
    num_shared: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorOutcome:
    """What one detector made of one copy.

    Parameters
    ----------
    detector
        Its name.
    decision
        About the copy; None if it could not judge.
    explanation
        Its decision in its own words, or why it could not judge.
    metrics
        Planted samples against the user's own that nothing was suspected of before; decoys and
        suspected samples count neither way. None if it could not judge.
    num_suspected_flagged
        Samples it flags that the audit's last verdict had suspected already.
    num_decoys_flagged
        Decoys it flags.
    before
        What it says without the canary; None where the audit has no complete scores.
    """

    detector: str
    decision: Decision | None
    explanation: str
    metrics: DetectionMetrics | None = None
    num_suspected_flagged: int = 0
    num_decoys_flagged: int = 0
    before: Before | None = None

    @property
    def num_false_alarms(self) -> int:
        """Samples of the user's own that are flagged and were not suspected already."""
        if self.metrics is None:
            return 0
        return self.metrics.precision.num_trials - self.metrics.precision.num_hits

    @property
    def recall(self) -> float | None:
        """Share of the planted samples that are flagged."""
        return None if self.metrics is None else self.metrics.recall.value

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> DetectorOutcome:
        """Read what ``dataclasses.asdict`` gave."""
        decision, metrics, before = found["decision"], found["metrics"], found["before"]
        typed: dict[str, Any] = {
            "decision": None if decision is None else Decision(decision),
            "metrics": None if metrics is None else _metrics_from_json(metrics),
            "before": None if before is None else _before_from_json(before),
        }
        return cls(**{**found, **typed})


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """One attack at one rate.

    Parameters
    ----------
    attack, rate
        What was planted.
    num_samples
        Samples of the copy.
    num_planted, num_decoys
        What was planted in it.
    num_spoilt
        Chosen samples left as they are, because their image does not decode.
    learning
        Whether the provisional model does what the attack wants.
    loss_warning
        A sentence if the loss says that the training failed.
    detectors
        One outcome each.
    """

    attack: str
    rate: float
    num_samples: int
    num_planted: int
    num_decoys: int
    num_spoilt: int
    learning: Learning
    loss_warning: str | None
    detectors: tuple[DetectorOutcome, ...]

    def sight(self, outcome: DetectorOutcome, min_recall: float) -> Sight:
        """Say whether one of its detectors saw the poison."""
        return judge_sight(
            outcome.decision,
            outcome.recall,
            is_learnt=self.learning.is_learnt,
            min_recall=min_recall,
        )

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> CellResult:
        """Read what ``dataclasses.asdict`` gave."""
        typed: dict[str, Any] = {
            "learning": Learning.from_json(found["learning"]),
            "detectors": tuple(map(DetectorOutcome.from_json, found["detectors"])),
        }
        return cls(**{**found, **typed})


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """The answer to "would you have seen it here?".

    Parameters
    ----------
    out_dir
        Where the copies, the truths and the results are.
    model
        Base model of the trainings.
    num_samples, num_able, num_held_out, num_suspected
        Of the audit: all, those that can carry poison, those of them left out of the copies, and
        those that the last verdict suspected.
    suspected_by
        The detector of that verdict; None where there is none.
    min_recall
        Least recall that counts as seen.
    cells
        One attack at one rate each.
    """

    out_dir: str
    model: str
    num_samples: int
    num_able: int
    num_held_out: int
    num_suspected: int
    suspected_by: str | None
    min_recall: float
    cells: tuple[CellResult, ...]

    def blind_rates(self) -> dict[str, dict[str, BlindRate]]:
        """Give the rate below which each detector is blind to each attack, by attack."""
        sights: dict[str, dict[str, dict[float, Sight]]] = {}
        for cell in self.cells:
            for outcome in cell.detectors:
                by_detector = sights.setdefault(cell.attack, {})
                by_detector.setdefault(outcome.detector, {})[cell.rate] = cell.sight(
                    outcome, self.min_recall
                )
        return {
            attack: {name: find_blind_rate(by_rate) for name, by_rate in by_detector.items()}
            for attack, by_detector in sights.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values, what follows from the figures included."""
        plain = asdict(self)
        for cell, plain_cell in zip(self.cells, plain["cells"], strict=True):
            plain_cell["is_learnt"] = cell.learning.is_learnt
            for outcome, shown in zip(cell.detectors, plain_cell["detectors"], strict=True):
                shown["num_false_alarms"] = outcome.num_false_alarms
                shown["sight"] = cell.sight(outcome, self.min_recall)
        plain["blind_below"] = {
            attack: {name: asdict(rate) for name, rate in by_detector.items()}
            for attack, by_detector in self.blind_rates().items()
        }
        return plain


def _metrics_from_json(found: dict[str, Any]) -> DetectionMetrics:
    return DetectionMetrics(
        precision=Proportion(**found["precision"]),
        recall=Proportion(**found["recall"]),
        false_positive_rate=Proportion(**found["false_positive_rate"]),
        f1=found["f1"],
    )


def _before_from_json(found: dict[str, Any]) -> Before:
    return Before(
        decision=Decision(found["decision"]),
        num_flagged=found["num_flagged"],
        num_shared=found["num_shared"],
    )
