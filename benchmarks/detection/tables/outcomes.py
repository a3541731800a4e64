"""What a model fine-tuned on the cleaned split does."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.tables.markdown import (
    Row,
    count_seeds,
    grouped,
    spread,
    table,
)


def outcome_table(rows: Sequence[Row]) -> str:
    """Attack success rate and clean performance before and after, one row an attack and variant.

    Where nothing was removed no training was needed: the provisional model is the model.
    """
    body = []
    measured = [row for row in rows if row["training"] is not None]
    for (data, attack, rate, variant), group in grouped(
        measured, "data", "attack", "rate", "variant"
    ):
        if not any(row["training"] != "provisional" for row in group):
            continue
        figures = [spread(group, name) for name in ("asr", "asr_after", "cp", "cp_after")]
        body.append([data, attack, f"{rate:.1%}", variant, count_seeds(group), *figures])
    header = ["data", "attack", "rate", "variant", "seeds"]
    return table([*header, "ASR before", "ASR after", "CP before", "CP after"], body)


def training_sentence(rows: Sequence[Row]) -> str:
    """Say how many trainings the outcomes are of."""
    measured = [row for row in rows if row["training"] not in (None, "provisional")]
    num_trainings = len({row["training"] for row in measured})
    return (
        f"{num_trainings} trainings on what was kept serve {len(measured)} pairs of a cell and a "
        "variant: equal splits are trained on once."
    )
