"""What the record is of: how many cells and seeds, and which code judged them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.cells import CLEAN
from benchmarks.detection.tables.markdown import Row, grouped, table


def scope_table(rows: Sequence[Row]) -> str:
    """Give one row a dataset and version of the judging code."""
    body = []
    for (data, code), of_code in grouped(rows, "data", "judged_with"):
        cells = {(row["attack"], row["rate"], row["seed"]) for row in of_code}
        num_clean = sum(attack == CLEAN for attack, _, _ in cells)
        attacks = {attack for attack, _, _ in cells} - {CLEAN}
        seeds = sorted({seed for _, _, seed in cells})
        body.append(
            [
                data,
                code,
                str(len(cells) - num_clean),
                str(len(attacks)),
                str(num_clean),
                ", ".join(map(str, seeds)),
            ]
        )
    return table(["data", "judged with", "poisoned cells", "attacks", "clean cells", "seeds"], body)
