"""From stored scores to verdicts and files.

Reads the columns ``score`` wrote and ``sample_id``; writes ``verdict``, ``reason``, ``suspicion``,
``detector_score`` and ``filter_run``, the folder of the split with ``provenance.json`` in it, and a
row in ``runs``. Needs no model. It starts anew whenever it is run; a run killed between the export
and the record leaves files whose digests the old record does not match, until it is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.config import DEFAULT_OUTPUTS, DetectConfig
from bye_audit.core.detectors import DETECTORS, Detection, Detector
from bye_audit.core.opinions import add_opinions, name_confounders
from bye_audit.errors import ConfigError, InterruptedStageError
from bye_audit.filter.provenance import build_provenance, write_provenance
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision, Reason, ScoreStatus, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

    from bye_audit.store.evidence import ScoredSamples
    from bye_audit.store.tables import AuditTables

STAGE = "filter"
PROVENANCE_NAME = "provenance.json"
# A text without an image cannot carry an image trigger and stays; a sample whose scoring failed, or
# whose image or video no score looked at, is withheld, or an attacker would only need to see to
# that.
KEPT_WHERE = (
    f"verdict = '{Verdict.KEEP}' OR "
    f"(verdict = '{Verdict.NOT_SCORED}' AND reason = '{Reason.NOT_SCORABLE}')"
)
WITHHELD_WHERE = f"verdict = '{Verdict.NOT_SCORED}' AND reason <> '{Reason.NOT_SCORABLE}'"
REMOVED_WHERE = f"verdict = '{Verdict.REMOVE}' OR ({WITHHELD_WHERE})"
_UPDATE_ROWS = 500_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterResult:
    """What ``filter`` decided and wrote.

    Parameters
    ----------
    decision
        One of :class:`bye_audit.schema.Decision`.
    explanation
        The decision in plain words.
    detector
        Name of the rule that judged.
    sensitive_layers
        Layers it used; empty for rules that look at no layer.
    num_samples, num_kept, num_removed, num_not_scored
        ``num_kept + num_removed + num_not_scored == num_samples``.
    num_withheld
        Of those not scored, how many are left out of the cleaned split because scoring failed.
    out_dir
        Folder of the split.
    provenance_path
        The record of how it came about.
    files
        Every file of the split with ``path``, ``sha256``, ``num_bytes`` and ``num_rows``.
    run_id
        Of the row in ``runs``.
    """

    decision: str
    explanation: str
    detector: str
    sensitive_layers: tuple[int, ...]
    num_samples: int
    num_kept: int
    num_removed: int
    num_not_scored: int
    num_withheld: int
    out_dir: Path
    provenance_path: Path
    files: list[dict[str, Any]]
    run_id: str


def filter_samples(
    tables: AuditTables,
    out_dir: Path,
    *,
    detector: str,
    config: DetectConfig | None = None,
    formats: Sequence[str] = DEFAULT_OUTPUTS,
    progress: Progress = SILENT,
) -> FilterResult:
    """Judge every sample, write the cleaned split and the record an auditor can check.

    Parameters
    ----------
    tables
        After ``score``.
    out_dir
        Folder for the split; made if missing.
    detector
        Name in :data:`bye_audit.core.detectors.DETECTORS`.
    config
        Settings of the detection; the paper's when None.
    formats
        What to write the kept samples as, of :data:`bye_audit.config.OUTPUT_FORMATS`.
    progress
        Told of each step.

    Returns
    -------
    FilterResult
        That nothing was removed is an answer.

    Raises
    ------
    ConfigError
        If there is no such detector.
    StageNotRunError
        If scores are missing.
    TooFewSamplesError
        If there are too few scored samples to judge any.
    StorageError
        If the split cannot be written.
    InterruptedStageError
        If the user stopped it.
    """
    if detector not in DETECTORS:
        raise ConfigError(
            f"There is no detector {detector!r}.",
            hint=f"Choose one of: {', '.join(sorted(DETECTORS))}.",
        )
    try:
        chosen, config = DETECTORS[detector], config or DetectConfig()
        return _filter(tables, Path(out_dir), chosen, config, formats, progress)
    except KeyboardInterrupt as interrupt:
        raise InterruptedStageError(
            f"Filtering of {tables.uri} was stopped before the split was complete.",
            hint="Run the same command again; filtering takes little time and starts anew.",
        ) from interrupt


def _filter(
    tables: AuditTables,
    out_dir: Path,
    detector: Detector,
    config: DetectConfig,
    formats: Sequence[str],
    progress: Progress,
) -> FilterResult:
    from bye_audit.store.evidence import read_evidence
    from bye_audit.store.tables import new_run_id

    started_at = _now()
    run_id = new_run_id(STAGE)
    with progress.task("Reading scores", None) as task:
        scored = read_evidence(tables, with_image_mass=config.entropy == "literal")
        task.advance(len(scored.sample_id))
    # How many layers a detector looks at, and how often, is its own affair.
    with progress.task(f"Detecting with {detector.name}", None, "layers") as task:
        detection = detector.detect(
            scored.evidence, config, lambda layer: task.advance(note=f"layer {layer}")
        )
        detection = add_opinions(detection, scored.evidence, config)
        detection = name_confounders(detection, scored.evidence)
    _write_verdicts(tables, detector, detection, scored, run_id, progress)
    counts = _count(tables)
    files = _export(tables, out_dir, counts, formats, progress)
    provenance = build_provenance(
        tables,
        run_id=run_id,
        started_at=started_at,
        finished_at=_now(),
        detector=detector,
        detection=detection,
        config=config,
        counts=counts,
        files=files,
    )
    provenance_path = out_dir / PROVENANCE_NAME
    write_provenance(provenance, provenance_path)
    tables.record_run(STAGE, {"provenance": provenance}, run_id)
    return FilterResult(
        decision=str(detection.decision),
        explanation=detection.explanation,
        detector=detector.name,
        sensitive_layers=detection.sensitive_layers,
        num_samples=counts["samples"],
        num_kept=counts["kept"],
        num_removed=counts["removed"],
        num_not_scored=counts["not_scored"],
        num_withheld=counts["withheld"],
        out_dir=out_dir,
        provenance_path=provenance_path,
        files=files,
        run_id=run_id,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _write_verdicts(
    tables: AuditTables,
    detector: Detector,
    detection: Detection,
    scored: ScoredSamples,
    run_id: str,
    progress: Progress,
) -> None:
    """Give every sample its verdict, scored or not."""
    import pyarrow as pa

    verdicts = pa.concat_tables(
        [
            _verdicts_of_scored(detector, detection, scored, run_id),
            _verdicts_of_unscored(tables, run_id),
        ]
    )
    tables.add_sample_columns(schema.verdict_fields())
    with progress.task("Writing verdicts", verdicts.num_rows) as task:
        for start in range(0, verdicts.num_rows, _UPDATE_ROWS):
            part = verdicts.slice(start, _UPDATE_ROWS)
            tables.update_samples(part)
            task.advance(part.num_rows)


def _verdicts_of_scored(
    detector: Detector, detection: Detection, scored: ScoredSamples, run_id: str
) -> pa.Table:
    is_judged = detection.is_evaluated_N
    verdict = np.where(
        ~is_judged,
        str(Verdict.NOT_SCORED),
        np.where(detection.is_suspicious_N, str(Verdict.REMOVE), str(Verdict.KEEP)),
    )
    # Above one half but kept, because the dataset's decision removes nothing.
    is_spared = (detection.decision is Decision.INCONCLUSIVE) & (detection.suspicion_N > 0.5)
    reason = np.select(
        [~is_judged, detection.is_suspicious_N, is_spared],
        [str(Reason.SCORE_ERROR), str(detector.reason), str(Reason.NO_DECISION)],
        str(Reason.NOT_SUSPICIOUS),
    )
    return _verdict_table(
        scored.sample_id,
        verdict=verdict,
        reason=reason,
        suspicion=detection.suspicion_N,
        score=detection.score_N,
        witnesses=detection.witnesses_N,
        run_id=run_id,
    )


def _verdicts_of_unscored(tables: AuditTables, run_id: str) -> pa.Table:
    import pyarrow.compute as pc

    columns = ["sample_id", "score_status", "images", "unscorable"]
    rest = tables.read_samples(columns, f"score_status <> '{ScoreStatus.OK}'")
    status = rest["score_status"].to_numpy(zero_copy_only=False)
    has_image = pc.greater(pc.list_value_length(rest["images"]), 0)
    is_unseen = pc.or_(has_image, pc.is_valid(rest["unscorable"])).to_numpy(zero_copy_only=False)
    unknown = np.full(rest.num_rows, np.nan)
    return _verdict_table(
        rest["sample_id"],
        verdict=np.full(rest.num_rows, str(Verdict.NOT_SCORED)),
        reason=np.select(
            [status != str(ScoreStatus.NOT_SCORABLE), is_unseen],
            [str(Reason.SCORE_ERROR), str(Reason.UNSEEN_MEDIA)],
            str(Reason.NOT_SCORABLE),
        ),
        suspicion=unknown,
        score=unknown,
        witnesses=None,
        run_id=run_id,
    )


def _verdict_table(
    sample_id: pa.ChunkedArray,
    *,
    verdict: NDArray[np.str_],
    reason: NDArray[np.str_],
    suspicion: NDArray[np.float64],
    score: NDArray[np.float64],
    witnesses: NDArray[np.str_] | None,
    run_id: str,
) -> pa.Table:
    import pyarrow as pa

    columns = {
        "sample_id": sample_id,
        "verdict": pa.array(verdict.tolist(), pa.string()),
        "reason": pa.array(reason.tolist(), pa.string()),
        # from_pandas turns NaN into null: "not known" is never stored as a number.
        "suspicion": pa.array(suspicion.astype(np.float32), pa.float32(), from_pandas=True),
        "detector_score": pa.array(score.astype(np.float32), pa.float32(), from_pandas=True),
        "witnesses": pa.nulls(len(verdict), pa.string())
        if witnesses is None
        else pa.array([names or None for names in witnesses.tolist()], pa.string()),
        "filter_run": pa.array([run_id] * len(verdict), pa.string()),
    }
    return pa.table(columns)


def _count(tables: AuditTables) -> dict[str, int]:
    """Count verdicts as they are stored and see that every sample has one."""
    counts = {
        "samples": tables.num_samples(),
        "kept": tables.num_samples(f"verdict = '{Verdict.KEEP}'"),
        "removed": tables.num_samples(f"verdict = '{Verdict.REMOVE}'"),
        "not_scored": tables.num_samples(f"verdict = '{Verdict.NOT_SCORED}'"),
        "withheld": tables.num_samples(WITHHELD_WHERE),
        "quarantined": tables.num_quarantined(),
    }
    judged = counts["kept"] + counts["removed"] + counts["not_scored"]
    assert judged == counts["samples"], f"{judged} verdicts for {counts['samples']} samples"
    return counts


def _export(
    tables: AuditTables,
    out_dir: Path,
    counts: dict[str, int],
    formats: Sequence[str],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Write the split and see that it holds what was counted."""
    from bye_audit.store.export import export_split

    result = export_split(
        tables, out_dir, KEPT_WHERE, REMOVED_WHERE, formats=formats, progress=progress
    )
    num_cleaned = counts["samples"] - counts["removed"] - counts["withheld"]
    assert result.num_kept == num_cleaned, f"{result.num_kept} exported, not {num_cleaned}"
    return [
        {
            "path": file.path,
            "sha256": file.sha256,
            "num_bytes": file.num_bytes,
            "num_rows": file.num_rows,
        }
        for file in result.files
    ]
