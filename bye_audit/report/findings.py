"""What the report says, gathered from the tables and the provenance record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bye_audit import schema
from bye_audit.core.detectors import DETECTORS, Detector
from bye_audit.core.mixture import MIN_DELTA_BIC
from bye_audit.report.charts import Component, Histogram
from bye_audit.report.distributions import count_detector_scores, count_entropies

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

NUM_LAYER_CHARTS = 9
NUM_SHARED_ANSWERS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFinding:
    """One decoder layer's separation and, for layers shown, its entropies."""

    layer: int
    bsi: float
    has_two_modes: bool
    is_sensitive: bool
    components: tuple[Component, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFinding:
    """How the provisional model learnt."""

    steps: list[int]
    losses: list[float]
    learning_rates: list[float]
    num_used: int
    warning: str | None
    """A sentence if the loss says that the training failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedAnswer:
    """An answer of removed samples; ``answer`` is the dataset's own text."""

    answer: str
    num_removed: int
    num_kept: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything the page shows but the samples themselves."""

    decision: schema.Decision
    explanation: str
    detector: Detector
    bsi_threshold: float
    counts: dict[str, int]
    quarantine: dict[str, int]
    layers: list[LayerFinding]
    layer_histograms: dict[int, Histogram]
    score_histogram: Histogram | None
    score_components: tuple[Component, ...]
    cut: float | None
    is_normalized: bool
    is_score_normalized: bool
    """Whether the detector's score is a share of log T too; a threshold in nats keeps it nats."""
    shared_answers: list[SharedAnswer]
    limits: list[str]
    training: TrainingFinding | None
    """None where the scored adapter was trained elsewhere."""
    provenance: Mapping[str, Any]

    @property
    def sensitive_layers(self) -> tuple[int, ...]:
        """Layers the detector used."""
        return tuple(layer.layer for layer in self.layers if layer.is_sensitive)


def gather_findings(tables: AuditTables, provenance: Mapping[str, Any]) -> Findings:
    """Read what the page needs, in a few passes that hold no more than counts.

    Parameters
    ----------
    tables
        After ``filter``.
    provenance
        The record that ``filter`` wrote.

    Returns
    -------
    Findings
        What to show.
    """
    found = provenance["detector"]
    detector = DETECTORS[found["name"]]
    layers = _read_layers(tables, found)
    sensitive = [layer.layer for layer in layers if layer.is_sensitive]
    is_normalized = bool(found["statistics"].get("is_entropy_normalized", False))
    shown = sensitive or [best.layer for best in sorted(layers, key=lambda item: -item.bsi)[:3]]
    shown = sorted(shown[:NUM_LAYER_CHARTS])
    return Findings(
        decision=schema.Decision(provenance["decision"]),
        explanation=str(provenance["explanation"]),
        detector=detector,
        bsi_threshold=float(found["config"]["bsi_threshold"]),
        counts={name: int(number) for name, number in provenance["counts"].items()},
        quarantine={code: int(number) for code, number in provenance["quarantine"].items()},
        layers=layers,
        layer_histograms=count_entropies(
            tables,
            shown,
            is_normalized=is_normalized,
            is_literal=found["config"]["entropy"] == "literal",
        ),
        score_histogram=count_detector_scores(tables)
        if found["averaged_layers"] or found["mixture"]
        else None,
        score_components=_components(found["mixture"]),
        cut=found["cut"],
        is_normalized=is_normalized,
        is_score_normalized=bool(found["statistics"].get("is_score_normalized", is_normalized)),
        shared_answers=_find_shared_answers(tables),
        limits=[str(limit) for limit in provenance["limits"]],
        training=_read_training(provenance.get("finetune")),
        provenance=provenance,
    )


def _read_training(record: Mapping[str, Any] | None) -> TrainingFinding | None:
    if not record or not record.get("loss_curve"):
        return None
    curve = record["loss_curve"]
    return TrainingFinding(
        steps=[int(point["step"]) for point in curve],
        losses=[float(point["loss"]) for point in curve],
        learning_rates=[float(point["learning_rate"]) for point in curve],
        num_used=int(record["num_used"]),
        warning=record.get("loss_warning"),
    )


def _read_layers(tables: AuditTables, found: Mapping[str, Any]) -> list[LayerFinding]:
    profiles = found["layers"]
    if not profiles:
        # A detector that looks at no layer: the profile of its own stage still informs.
        run = tables.latest_run("profile")
        profiles = run.record["layers"] if run else []
    # Their components are of values within strata, which the histogram does not show.
    within = found["statistics"].get("layers_within_strata", {})
    return [
        LayerFinding(
            layer=int(profile["layer"]),
            bsi=float(profile["bsi"]),
            has_two_modes=float(profile["delta_bic"]) > MIN_DELTA_BIC,
            is_sensitive=bool(profile["is_sensitive"]),
            components=() if str(profile["layer"]) in within else _components(profile["mixture"]),
        )
        for profile in profiles
    ]


def _components(mixture: Mapping[str, float] | None) -> tuple[Component, ...]:
    if not mixture:
        return ()
    weight_low = float(mixture["weight_low"])
    return tuple(
        Component(
            mean=float(mixture[f"mean_{side}"]),
            std=float(mixture[f"var_{side}"]) ** 0.5,
            weight=weight,
        )
        for side, weight in (("low", weight_low), ("high", 1 - weight_low))
    )


def _find_shared_answers(tables: AuditTables) -> list[SharedAnswer]:
    from bye_audit.store.sql import run_query

    # In SQL, because distinct answers may be as many as samples and the engine can spill.
    rows = run_query(
        tables,
        f"""
        SELECT answer,
               count(*) FILTER (verdict = '{schema.Verdict.REMOVE}') AS removed,
               count(*) FILTER (verdict = '{schema.Verdict.KEEP}') AS kept
        FROM (SELECT verdict,
                     list_filter(messages, lambda turn: turn.role = 'assistant')[1].content
                         AS answer
              FROM samples)
        GROUP BY answer
        HAVING removed > 0
        ORDER BY removed DESC, kept, answer
        LIMIT {NUM_SHARED_ANSWERS}
        """,  # noqa: S608 - only our own constants
    ).to_pylist()
    return [
        SharedAnswer(answer=str(row["answer"]), num_removed=row["removed"], num_kept=row["kept"])
        for row in rows
    ]
