"""F1 against the poison rate."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.tables.markdown import (
    Row,
    chosen,
    count_seeds,
    grouped,
    spread,
    table,
)
from benchmarks.detection.variants import PAPER_RULE

COMPARED = (PAPER_RULE, "bye", "tcap", "plausibility", "consensus")


def rate_table(rows: Sequence[Row]) -> str:
    """One row an attack and rate, of the attacks that were planted at several rates."""
    body = []
    for (data, attack), group in grouped(rows, "data", "attack"):
        if len({row["rate"] for row in group}) < 2:
            continue
        for (rate,), those in grouped(group, "rate"):
            one = chosen(those, variant="consensus")
            f1 = [spread(chosen(those, variant=name), "f1") for name in COMPARED]
            body.append([data, attack, f"{rate:.1%}", spread(one, "asr"), count_seeds(one), *f1])
    return table(["data", "attack", "rate", "ASR", "seeds", *COMPARED], body)
