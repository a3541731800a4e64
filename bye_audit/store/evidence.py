"""What ``score`` measured, read for the detectors: by column name, never by a sample's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.core.detection import Evidence, PurifiedAnswers
from bye_audit.errors import NumericError, StageNotRunError, StaleStageError
from bye_audit.store.heads import StoredHeadScores
from bye_audit.store.strata import StoredStrata
from bye_audit.store.tables import AuditTables
from bye_audit.store.triggers import finished_confirm_run

_ENTROPY_NAME = re.compile(rf"{schema.ENTROPY_PREFIX}(\d+)")
_SCORED = f"score_status = '{schema.ScoreStatus.OK}'"
_LOGP_COLUMNS = ("answer_logp", "answer_logp_base")
_INTERVENTION = "intervention"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSamples:
    """Samples that have scores, in table order, with what was measured of them.

    Parameters
    ----------
    sample_id
        One a row of the evidence.
    evidence
        As the detectors take it; NaN stands for null.
    num_layers
        Decoder layers that were scored.
    """

    sample_id: pa.ChunkedArray
    evidence: Evidence
    num_layers: int


def read_evidence(tables: AuditTables, *, with_image_mass: bool = False) -> ScoredSamples:
    """Read the scores of every scored sample, once all samples have been through ``score``.

    Parameters
    ----------
    tables
        Reads ``sample_id``, ``score_status``, ``score_run``, ``num_image_tokens``, ``entropy_*``
        and, where they exist, ``answer_logp``, ``answer_logp_base``, ``intervention`` and what
        ``purify`` wrote.
        Statistics of heads and strata are read when a detector asks for them.
    with_image_mass
        Also read ``image_mass_*``, where they exist; only Eq. 5 taken literally needs them.

    Returns
    -------
    ScoredSamples
        Possibly of no sample at all: the detectors say how many they need.

    Raises
    ------
    StageNotRunError
        If there are no scores yet or some samples are still to do.
    NumericError
        If a stored score is infinite or not a number.
    """
    present = tables.sample_columns()
    layers = entropy_layers(present)
    _require_complete(tables, layers, present)
    entropy_names = [schema.entropy_column(layer) for layer in layers]
    mass_names = [schema.image_mass_column(layer) for layer in layers if with_image_mass]
    mass_names = mass_names if all(name in present for name in mass_names) else []
    has_logp = all(name in present for name in _LOGP_COLUMNS)
    columns = ["sample_id", "score_run", "num_image_tokens", *entropy_names, *mass_names]
    optional = [*(_LOGP_COLUMNS if has_logp else ())]
    optional += [_INTERVENTION] if _INTERVENTION in present else []
    table = tables.read_samples([*columns, *optional], _SCORED)
    entropy_by_layer = [_floats(table, name) for name in entropy_names]
    image_mass = np.array([_floats(table, name) for name in mass_names]).T
    logp = {name: _floats(table, name) for name in _LOGP_COLUMNS} if has_logp else {}
    # Columns that exist but were never filled: plausibility was switched off.
    has_values = bool(logp) and all(np.isfinite(values).any() for values in logp.values())
    heads = StoredHeadScores(tables, table["sample_id"], table["score_run"])
    tokens = table["num_image_tokens"].fill_null(0).to_numpy()
    return ScoredSamples(
        sample_id=table["sample_id"],
        evidence=Evidence(
            entropy_NL=np.stack(entropy_by_layer, axis=1),
            image_mass_NL=image_mass if np.isfinite(image_mass).any() else None,
            num_image_tokens_N=tokens,
            answer_logp_N=logp["answer_logp"] if has_values else None,
            answer_logp_base_N=logp["answer_logp_base"] if has_values else None,
            # What a run that was cut short found out is not all there is to know.
            intervention_N=_interventions(table) if finished_confirm_run(tables) else None,
            purified=_purified(tables, present),
            heads=heads if heads.num_heads else None,
            strata=StoredStrata(tables),
        ),
        num_layers=len(layers),
    )


def entropy_layers(columns: list[str]) -> list[int]:
    """Layers that have an entropy column, in order."""
    found = (_ENTROPY_NAME.fullmatch(name) for name in columns)
    return sorted(int(match.group(1)) for match in found if match)


def refuse_other_model(tables: AuditTables, **identity: str) -> None:
    """Refuse to ask a model about scores that are not its own.

    Parameters
    ----------
    tables
        After ``score``.
    identity
        What the model at hand says of itself, by the names that the entropy columns use.

    Raises
    ------
    StaleStageError
        If another model has scored.
    """
    scored_with = tables.column_metadata(schema.entropy_column(0))
    differing = [name for name, value in identity.items() if scored_with.get(name, value) != value]
    if differing:
        raise StaleStageError(
            f"{tables.uri} was scored with another model ({', '.join(differing)} differ).",
            hint=f"Name that one with --model and --adapter, or run `bye-audit score {tables.uri} "
            "--restart`.",
        )


def require_scores(tables: AuditTables) -> None:
    """Refuse to go on before all samples have been through ``score``.

    Raises
    ------
    StageNotRunError
        If there are no scores yet or some samples are still to do.
    """
    present = tables.sample_columns()
    _require_complete(tables, entropy_layers(present), present)


def _require_complete(tables: AuditTables, layers: list[int], present: list[str]) -> None:
    hint = f"Run `bye-audit score {tables.uri}` first."
    if not layers or "score_status" not in present:
        raise StageNotRunError(f"{tables.uri} has no scores yet.", hint=hint)
    num_to_do = tables.num_samples("score_status IS NULL")
    if num_to_do:
        raise StageNotRunError(
            f"{num_to_do} of {tables.num_samples()} samples of {tables.uri} are not scored yet.",
            hint=hint,
        )
    if layers != list(range(len(layers))):
        raise StageNotRunError(
            f"{tables.uri} has entropies of layers {layers}, with layers missing between them.",
            hint=f"Run `bye-audit score {tables.uri} --restart`.",
        )


def _purified(tables: AuditTables, present: Sequence[str]) -> PurifiedAnswers | None:
    """Read what ``purify`` measured, once it has asked all scored samples."""
    if schema.PURIFIED_COLUMNS[-1] not in present:
        return None
    if tables.num_samples(f"{_SCORED} AND {schema.PURIFIED_COLUMNS[-1]} IS NULL"):
        return None
    names = {
        "logp_N": "answer_logp_first",
        "purified_logp_N": "purified_answer_logp_first",
        "base_logp_N": "answer_logp_base_first",
        "purified_base_logp_N": "purified_answer_logp_base_first",
        "entropy_shift_N": "purified_entropy_shift",
    }
    table = tables.read_samples(["sample_id", *names.values()], _SCORED)
    return PurifiedAnswers(**{field: _floats(table, name) for field, name in names.items()})


def _interventions(table: pa.Table) -> NDArray[np.str_] | None:
    """Give what was found out about each sample, empty where it was not asked."""
    if _INTERVENTION not in table.column_names:
        return None
    return np.array(table[_INTERVENTION].fill_null("").to_pylist(), dtype=np.str_)


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Values of a column with NaN for null; a stored NaN or infinity is a fault of the scores."""
    column = table[name]
    is_null = column.is_null().to_numpy()
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    is_wrong = ~np.isfinite(values) & ~is_null
    if is_wrong.any():
        first = table["sample_id"][int(np.flatnonzero(is_wrong)[0])].as_py()
        raise NumericError(
            f"{int(is_wrong.sum())} samples have a value in {name} that is no finite number, "
            f"first {first}.",
            hint="Run `bye-audit score AUDIT --restart`, with float32 if it was done in float16.",
        )
    return values
