"""The contracts as files: what ``provenance.json`` must hold, and the tables for people to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bye_audit import schema
from bye_audit.schema import Decision, Finding, Intervention

PROVENANCE_VERSION = 1
PROVENANCE_SCHEMA_ID = "urn:bye-audit:provenance:1"


def provenance_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``provenance.json``, the record of how a split came about."""
    text, number, flag = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
    count = {"type": "integer", "minimum": 0}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    sha256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    time = {"type": "string", "format": "date-time"}
    mixture = _closed(
        mean_low=number, mean_high=number, var_low=number, var_high=number, weight_low=share
    )
    layer = _closed(
        layer=count,
        bsi={"type": "number", "minimum": 0},
        mixture=_or_null(mixture),
        delta_bic=number,
        is_sensitive=flag,
        num_values=count,
    )
    config = _closed(
        bsi_threshold=number,
        layer_rule={"enum": ["paper", "reference-code"]},
        layers={"enum": ["sensitive", "all"]},
        clustering={"enum": ["gmm", "kmeans", "threshold"]},
        entropy_threshold={"type": ["number", "string"]},
        entropy={"enum": ["renormalised", "literal"]},
        guards=flag,
        max_removed_share=share,
        min_samples=count,
        resamples=count,
        drop_share=share,
        seed={"type": "integer"},
        tcap={"type": "object"},
    )
    detector = _closed(
        name=text,
        score_label=text,
        is_low_suspicious=flag,
        config=config,
        sensitive_layers=_list(count),
        averaged_layers=_list(count),
        layers=_list(layer),
        mixture=_or_null(mixture),
        cut=_or_null(number),
        statistics={"type": "object"},
    )
    counts = _closed(
        samples=count,
        kept=count,
        removed=count,
        not_scored=count,
        withheld=count,
        quarantined=count,
    )
    model = _closed(
        base_model=_or_null(text),
        revision=_or_null(text),
        digest=_or_null(text),
        adapter_digest=_or_null(text),
        columns={"type": "object", "additionalProperties": text},
    )
    run = _open(run_id=text, finished_at=time)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": PROVENANCE_SCHEMA_ID,
        "title": "How bye-audit came to a split",
        **_closed(
            **{"$schema": {"const": PROVENANCE_SCHEMA_ID}},
            schema_version={"const": PROVENANCE_VERSION},
            tool=_closed(name={"const": "bye-audit"}, version=text),
            run_id=text,
            started_at=time,
            finished_at=time,
            decision={"enum": [str(decision) for decision in Decision]},
            explanation={"type": "string", "minLength": 1},
            counts=counts,
            inputs=_list(_open(source=text, sha256=sha256, rows_read=count)),
            quarantine={"type": "object", "additionalProperties": count},
            lance=_closed(schema_version=count, samples_version=count, content_digest=sha256),
            provisional_model=model,
            finetune=_or_null(run),
            score=_or_null(run),
            confirm=_or_null(_confirm_schema()),
            purify=_or_null(run),
            detector=detector,
            limits=_list(text),
            files=_list(_closed(path=text, sha256=sha256, num_bytes=count, num_rows=count)),
        ),
    }


def _confirm_schema() -> dict[str, Any]:
    """Describe what the record says of the interventions that a verdict rests on."""
    text, flag = {"type": "string"}, {"type": "boolean"}
    count = {"type": "integer", "minimum": 0}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    trial = _closed(num_hits=count, num_seen_by_base=count, num_trials=count, rate=share)
    trigger = _closed(
        group=count,
        finding={"enum": [str(finding) for finding in Finding]},
        answer=text,
        is_whole_answer=flag,
        kind=_or_null(text),
        num_suspects=count,
        chance_at_least=share,
        carriers=_list(_open(kind=text)),
        trial=_or_null(trial),
        tried={"type": "object", "additionalProperties": trial},
        is_another_answer=flag,
        num_questions=count,
        search=_or_null(
            {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}
        ),
    )
    return _closed(
        run_id=text,
        finished_at={"type": "string", "format": "date-time"},
        config={"type": "object", "additionalProperties": {"type": ["number", "boolean"]}},
        num_suspects=count,
        is_probe=flag,
        num_groups=count,
        num_confirmed=count,
        interventions=_closed(**{str(kind): count for kind in Intervention}),
        questions={"type": "object", "additionalProperties": count},
        triggers=_list(trigger),
    )


def tables_description() -> dict[str, Any]:
    """Columns of every table as ingest creates it, in Arrow's own words, for people to read."""
    schemas = {
        schema.SAMPLES: schema.samples_schema(),
        schema.IMAGES: schema.images_schema(),
        schema.QUARANTINE: schema.quarantine_schema(),
        schema.HEAD_SCORES: schema.head_scores_schema(),
        schema.TURN_SCORES: schema.turn_scores_schema(),
        schema.TRIGGERS: schema.triggers_schema(),
        schema.PATCHES: schema.patches_schema(),
        schema.RUNS: schema.runs_schema(),
    }
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "tables": {
            name: [
                {"name": field.name, "type": str(field.type), "nullable": field.nullable}
                for field in table
            ]
            for name, table in schemas.items()
        },
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write the generated files of ``schemas/``; a test compares them with the code."""
    contents = {
        "provenance.schema.json": provenance_schema(),
        "tables.json": tables_description(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in contents]


def _closed(**properties: Any) -> dict[str, Any]:
    """Describe an object that has exactly these properties."""
    return {**_open(**properties), "additionalProperties": False}


def _open(**properties: Any) -> dict[str, Any]:
    """Describe an object that has these properties and may have others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(value: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [value, {"type": "null"}]}
