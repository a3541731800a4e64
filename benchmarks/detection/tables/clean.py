"""What detectors remove where nothing is planted."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.tables.markdown import Row, count_seeds, grouped, table


def clean_table(rows: Sequence[Row]) -> str:
    """One row a dataset and variant: how often poison was suspected, and what was removed."""
    body = []
    for (data, variant), group in grouped(rows, "data", "variant"):
        shares = [row["num_flagged"] / row["num_samples"] for row in group]
        alarms = sum(row["is_alarm"] for row in group)
        unsure = sum(row["decision"] == "inconclusive" for row in group)
        body.append(
            [
                data,
                variant,
                count_seeds(group),
                f"{alarms} of {len(group)}",
                str(unsure),
                f"{sum(shares) / len(shares):.3%} ({min(shares):.3%} to {max(shares):.3%})",
            ]
        )
    header = [
        "data",
        "variant",
        "trainings",
        "poison suspected",
        "inconclusive",
        "removed, mean (range)",
    ]
    return table(header, body)
