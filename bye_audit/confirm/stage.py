"""Between score and filter: the provisional model is asked about what the detectors suspect.

Reads the columns ``score`` wrote, texts and images; writes ``intervention``, ``intervention_drop``
and ``confirm_run`` of the samples it asked about, one row in ``triggers`` for each group of
suspects, and a row in ``runs``. Each group and each sample is committed when it is done; a call
that is stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bye_audit
from bye_audit import schema
from bye_audit.config import ConfirmConfig, DetectConfig
from bye_audit.confirm.case import Case
from bye_audit.confirm.exhibits import Interrogator
from bye_audit.confirm.groups import form_groups
from bye_audit.confirm.suspects import Suspects, find_suspects
from bye_audit.errors import InterruptedStageError
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Finding, Intervention

if TYPE_CHECKING:
    import pyarrow as pa

    from bye_audit.store.tables import AuditTables

STAGE = "confirm"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmResult:
    """What the model said when it was asked.

    Parameters
    ----------
    triggers
        Rows of the table ``triggers``, one a group of suspects.
    num_suspects
        Samples that a detector suspects, or that came nearest to it where none does.
    is_probe
        Whether no detector suspected any.
    interventions
        Samples by what was found out about them.
    questions
        How many questions the models were asked, by kind.
    run_id
        Of the row in ``runs``.
    """

    triggers: list[dict[str, Any]]
    num_suspects: int
    is_probe: bool
    interventions: dict[str, int]
    questions: dict[str, int]
    run_id: str

    @property
    def num_confirmed(self) -> int:
        """Groups whose trigger was confirmed."""
        return sum(row["finding"] == Finding.CONFIRMED for row in self.triggers)


def confirm_samples(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: ConfirmConfig | None = None,
    *,
    detect: DetectConfig | None = None,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> ConfirmResult:
    """Ask the provisional model about the suspects, and about everyone who answers like them.

    Parameters
    ----------
    tables
        After ``score``.
    model, adapter_dir
        The provisional model that scored.
    config
        How hard to ask.
    detect
        Settings of the detectors that name the suspects; the paper's when None.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    ConfirmResult
        That nothing was confirmed is an answer.

    Raises
    ------
    StageNotRunError
        If scores are missing.
    TooFewSamplesError
        If there are too few scored samples to suspect any.
    StaleStageError
        If another model has scored.
    InterruptedStageError
        On Ctrl-C, after what was done is committed.
    """
    from bye_audit.store.evidence import read_evidence
    from bye_audit.store.triggers import claim_interventions, finished_confirm_run, read_triggers

    config = config or ConfirmConfig()
    scored = read_evidence(tables)
    suspects = find_suspects(scored.evidence, detect or DetectConfig(), config)
    run_id = _name_run(tables, scored.sample_id, suspects, config)
    case = Case(
        tables=tables,
        num_scored=len(scored.sample_id),
        suspects=suspects,
        config=config,
        run_id=run_id,
    )
    questions: dict[str, int] = {}
    try:
        with tables.sole_writer(STAGE):
            claim_interventions(tables, run_id)
            groups, others = form_groups(tables, case.num_scored, suspects, config)
            to_do = [group for group in groups if group.index not in case.done()]
            if to_do:
                ask = open_interrogator(tables, model, adapter_dir, config, trust_remote_code)
                with progress.task("Questioning", len(to_do), "groups") as task:
                    for group in to_do:
                        case.close(group, others, len(groups), ask, progress)
                        task.advance(note=f"{ask.counts.total():,} questions")
                questions = dict(ask.counts)
    except KeyboardInterrupt as interrupt:
        raise InterruptedStageError(
            f"Confirming of {tables.uri} was stopped.",
            hint="Run the same command again: it goes on where it was.",
        ) from interrupt
    result = ConfirmResult(
        triggers=read_triggers(tables, run_id),
        num_suspects=len(suspects.numbers),
        is_probe=suspects.is_probe,
        interventions={
            str(kind): tables.num_samples(f"intervention = '{kind}'") for kind in Intervention
        },
        questions=questions,
        run_id=run_id,
    )
    if questions or finished_confirm_run(tables) is None:
        tables.record_run(STAGE, _record(result, config), run_id)
    return result


def open_interrogator(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: ConfirmConfig,
    trust_remote_code: bool,
) -> Interrogator:
    """Open the model that scored; another would be asked about suspicions that are not its own."""
    from bye_audit.model.loading import load_model
    from bye_audit.store.evidence import refuse_other_model

    vlm = load_model(model, adapter_dir=adapter_dir, trust_remote_code=trust_remote_code)
    refuse_other_model(tables, model_digest=vlm.digest, adapter_digest=vlm.adapter_digest or "none")
    return Interrogator(vlm, config.batch_size)


def _name_run(
    tables: AuditTables, sample_id: pa.ChunkedArray, suspects: Suspects, config: ConfirmConfig
) -> str:
    """Name the run after what it depends on, so that the same question finds its own answers."""
    scores = tables.column_metadata(schema.entropy_column(0))
    names = sample_id.take(suspects.numbers).to_pylist()
    what = {
        # How it asks belongs to the version.
        "version": bye_audit.__version__,
        "scores": scores,
        "num_scored": len(sample_id),
        "suspects": names,
        "config": asdict(config),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"{STAGE}-{digest[:16]}"


def _record(result: ConfirmResult, config: ConfirmConfig) -> dict[str, Any]:
    return {
        "config": asdict(config),
        "num_suspects": result.num_suspects,
        "is_probe": result.is_probe,
        "num_groups": len(result.triggers),
        "num_confirmed": result.num_confirmed,
        "interventions": result.interventions,
        "questions": result.questions,
    }
