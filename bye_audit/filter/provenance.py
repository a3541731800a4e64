"""The record of how a split came about: what went in, what judged it, what came out."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit import contracts, schema
from bye_audit.config import DetectConfig
from bye_audit.core.detectors import Detection, Detector

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables, Run

# Read by whoever opens the record; the detector's own limits come before them.
_GENERAL_LIMITS = (
    "A verdict is a suspicion with reasons, not proof: poison can be missed and clean samples can "
    "be removed.",
    "Samples that were not scored were not judged. Those without an image are in the cleaned "
    "split; those whose scoring failed, or whose image or video no score looked at, are withheld "
    "from it.",
)


def build_provenance(
    tables: AuditTables,
    *,
    run_id: str,
    started_at: str,
    finished_at: str,
    detector: Detector,
    detection: Detection,
    config: DetectConfig,
    counts: dict[str, int],
    files: list[dict[str, Any]],
) -> dict[str, Any]:
    """Gather the record from the tables, the runs before and the detector's answer.

    Returns
    -------
    dict
        Valid under :func:`bye_audit.contracts.provenance_schema`; no NaN, no path of this machine.
    """
    ingest, score = tables.latest_run("ingest"), tables.latest_run("score")
    origin = _score_origin(tables)
    finetune = _finetune_of(tables, origin.get("adapter_digest"))
    return {
        "$schema": contracts.PROVENANCE_SCHEMA_ID,
        "schema_version": contracts.PROVENANCE_VERSION,
        "tool": {"name": "bye-audit", "version": _tool_version()},
        "run_id": run_id,
        "started_at": started_at,
        "finished_at": finished_at,
        "decision": str(detection.decision),
        "explanation": detection.explanation,
        "counts": counts,
        "inputs": [] if ingest is None else ingest.record.get("sources", []),
        "quarantine": tables.quarantine_counts(),
        "lance": {
            "schema_version": schema.SCHEMA_VERSION,
            "samples_version": tables.version(),
            "content_digest": tables.content_digest(),
        },
        "provisional_model": _model_facts(origin, finetune, score),
        "finetune": _run_facts(finetune),
        "score": _run_facts(score),
        "confirm": _confirm_facts(tables) if detector.role == "judge" else None,
        "purify": _run_facts(tables.latest_run("purify") if detector.name == "zip" else None),
        "detector": {
            "name": detector.name,
            "score_label": detector.score_label,
            "is_low_suspicious": detector.is_low_suspicious,
            "config": asdict(config),
            "sensitive_layers": list(detection.sensitive_layers),
            "averaged_layers": list(detection.averaged_layers),
            "layers": [profile.to_json() for profile in detection.layers],
            "mixture": None if detection.mixture is None else detection.mixture.to_json(),
            "cut": detection.cut,
            "statistics": detection.statistics,
        },
        "limits": [*detector.limits, *_GENERAL_LIMITS],
        "files": files,
    }


def write_provenance(provenance: dict[str, Any], path: Path) -> None:
    """Check the record against its schema and write it, whole or not at all."""
    import jsonschema

    from bye_audit.store.whole_files import write_json

    jsonschema.validate(provenance, contracts.provenance_schema())
    write_json(path, provenance, indent=2)


def _tool_version() -> str:
    try:
        return metadata.version("bye-audit")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "not installed"


def _score_origin(tables: AuditTables) -> dict[str, str]:
    """Read what the entropy columns say of the model that made them."""
    names = [name for name in tables.sample_columns() if name == schema.entropy_column(0)]
    origin = tables.column_metadata(names[0]) if names else {}
    return {key: value for key, value in origin.items() if key != "layer"}


def _finetune_of(tables: AuditTables, adapter_digest: str | None) -> Run | None:
    """Find the training of the adapter that was scored with, if it was trained in this audit."""
    runs = tables.runs("finetune")
    matching = (run for run in reversed(runs) if run.record.get("adapter_digest") == adapter_digest)
    return next(matching, None)


def _model_facts(origin: dict[str, str], finetune: Run | None, score: Run | None) -> dict[str, Any]:
    """Name the model whose attention was scored: the columns know best, then the runs."""
    records: list[dict[str, Any]] = [origin]
    records += [run.record for run in (score, finetune) if run is not None]

    def first(key: str) -> str | None:
        # A model scored without adapter says "none", for metadata has no null.
        found = (record.get(key) for record in records)
        return next((str(value) for value in found if value not in (None, "", "none")), None)

    return {
        "base_model": first("model"),
        "revision": first("revision"),
        "digest": first("model_digest"),
        "adapter_digest": first("adapter_digest"),
        "columns": origin,
    }


def _confirm_facts(tables: AuditTables) -> dict[str, Any] | None:
    """Tell what the verdict owes to interventions; their pictures stay in the audit."""
    from bye_audit.store.triggers import finished_confirm_run, read_finding, read_triggers

    run = finished_confirm_run(tables)
    if run is None:
        return None
    hidden = ("confirm_run", "record", "crop")
    triggers = [
        {
            **{key: value for key, value in row.items() if key not in hidden},
            **read_finding(row),
        }
        for row in read_triggers(tables, run.run_id)
    ]
    return {
        "run_id": run.run_id,
        "finished_at": run.finished_at,
        **run.record,
        "triggers": triggers,
    }


def _run_facts(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {"run_id": run.run_id, "finished_at": run.finished_at, **run.record}
