"""What the stages of one audit gave back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bye_audit.canary import CanaryReport
    from bye_audit.confirm import ConfirmResult
    from bye_audit.core.bsi import LayerProfile
    from bye_audit.filter import FilterResult
    from bye_audit.finetune import FinetuneResult
    from bye_audit.ingest import IngestSummary
    from bye_audit.planning import Plan
    from bye_audit.score import ScoreSummary


@dataclass
class Results:
    """Results of the stages that were called on one object; None for those that were not."""

    ingested: IngestSummary | None = field(default=None, init=False, repr=False)
    """What the last ``ingest`` of this object found."""
    planned: Plan | None = field(default=None, init=False, repr=False)
    """What the last ``plan`` of this object found."""
    finetuned: FinetuneResult | None = field(default=None, init=False, repr=False)
    """The provisional adapter of the last ``finetune`` of this object."""
    scored: ScoreSummary | None = field(default=None, init=False, repr=False)
    """What the last ``score`` of this object did."""
    profiles: list[LayerProfile] | None = field(default=None, init=False, repr=False)
    """One profile a layer, of the last ``profile`` of this object."""
    confirmed: ConfirmResult | None = field(default=None, init=False, repr=False)
    """What the last ``confirm`` of this object found out."""
    filtered: FilterResult | None = field(default=None, init=False, repr=False)
    """Decision and files of the last ``filter`` of this object."""
    report_path: Path | None = field(default=None, init=False, repr=False)
    """Where the last ``report`` of this object was written."""
    canary_report: CanaryReport | None = field(default=None, init=False, repr=False)
    """What the last ``canary`` of this object measured."""
