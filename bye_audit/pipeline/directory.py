"""One audit directory, opened: its tables, its provisional model, and what its stages gave back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bye_audit.pipeline.provisional import Provisional, find_provisional
from bye_audit.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from bye_audit.canary import CanaryReport
    from bye_audit.confirm import ConfirmResult
    from bye_audit.core.bsi import LayerProfile
    from bye_audit.filter import FilterResult
    from bye_audit.finetune import FinetuneResult
    from bye_audit.ingest import IngestSummary
    from bye_audit.planning import Plan
    from bye_audit.purify import PurifyResult
    from bye_audit.score import ScoreSummary
    from bye_audit.store.tables import AuditTables


@dataclass
class AuditDirectory:
    """An audit directory and the results of the stages that were called on this object.

    Parameters
    ----------
    uri
        One LanceDB database; it need not be there yet.
    progress
        Where the stages say how far they are.
    """

    uri: str
    progress: Progress = field(default=SILENT, repr=False)

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
    purified: PurifyResult | None = field(default=None, init=False, repr=False)
    """What the last ``purify`` of this object did."""
    filtered: FilterResult | None = field(default=None, init=False, repr=False)
    """Decision and files of the last ``filter`` of this object."""
    report_path: Path | None = field(default=None, init=False, repr=False)
    """Where the last ``report`` of this object was written."""
    canary_report: CanaryReport | None = field(default=None, init=False, repr=False)
    """What the last ``canary`` of this object measured."""

    @classmethod
    def open(cls, uri: str | Path, *, progress: Progress = SILENT) -> Self:
        """Give the audit at ``uri``; nothing is read or made until a stage needs it."""
        return cls(str(uri), progress)

    @property
    def tables(self) -> AuditTables:
        """The tables of this audit.

        Raises
        ------
        TableError
            If there is no audit at ``uri`` yet, or it is of another schema version.
        """
        from bye_audit.store.tables import AuditTables

        return AuditTables.open(self.uri)

    def query(self, sql: str, *, max_rows: int | None = None) -> pa.Table:
        """Answer one SELECT over the tables; nothing can be written and no file be read.

        Parameters
        ----------
        sql
            One statement in DuckDB's dialect over the views ``samples``, ``images``,
            ``quarantine``, ``runs``, ``head_scores`` and, where they were made, ``turn_scores`` and
            ``triggers``.
        max_rows
            Cut the answer after so many rows.

        Returns
        -------
        pa.Table
            The answer.
        """
        from bye_audit.store.sql import run_query

        return run_query(self.tables, sql, max_rows=max_rows)

    def provisional(
        self, model: str | Path | None = None, adapter_dir: str | Path | None = None
    ) -> Provisional:
        """Name the provisional model of this audit.

        Parameters
        ----------
        model, adapter_dir
            What to use instead of the last ``finetune``; a model without an adapter is taken as
            one that was fine-tuned whole.

        Returns
        -------
        Provisional
            Base model and adapter.

        Raises
        ------
        StageNotRunError
            If no model is given and none was trained here.
        """
        return find_provisional(self.uri, model, adapter_dir)
