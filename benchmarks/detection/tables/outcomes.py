"""What a model fine-tuned on the cleaned split does."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.tables.markdown import (
    Row,
    chosen,
    count_seeds,
    grouped,
    spread,
    table,
    values,
)

_COMPARED = ("consensus", "plausibility", "tcap", "bye", "random-drop")


def outcome_table(rows: Sequence[Row]) -> str:
    """Attack success rate and clean performance before and after, one row an attack and rate.

    Where nothing was removed no training was needed: the provisional model is the model.
    """
    body = []
    for (data, attack, rate), group in grouped(rows, "data", "attack", "rate"):
        judge = chosen(group, variant=_COMPARED[0])
        if not values(judge, "asr_after"):
            continue
        before = [spread(judge, "asr"), spread(judge, "cp")]
        asr = [spread(chosen(group, variant=name), "asr_after") for name in _COMPARED]
        line = [data, attack, f"{rate:.1%}", count_seeds(judge), *before]
        body.append([*line, spread(judge, "cp_after"), *asr])
    header = ["data", "attack", "rate", "seeds", "ASR before", "CP before"]
    after = [f"ASR after {name}" for name in _COMPARED]
    return table([*header, f"CP after {_COMPARED[0]}", *after], body)


def training_sentence(rows: Sequence[Row]) -> str:
    """Say how many trainings the outcomes are of."""
    measured = [row for row in rows if row["training"] not in (None, "provisional")]
    num_trainings = len({row["training"] for row in measured})
    return (
        f"{num_trainings} trainings on what was kept serve {len(measured)} pairs of a cell and a "
        "variant: equal splits are trained on once. Where a variant removed nothing, ASR and CP "
        "stay those of the provisional model."
    )
