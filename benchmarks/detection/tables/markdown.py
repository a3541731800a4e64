"""Rows of the record chosen, grouped and written as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bye_audit.poison.attacks import ATTACKS

Row = dict[str, Any]

NOT_SAID = "not said"
"""For how many seeds a published figure is of."""
LEARNT = 0.9
"""Least mean attack success rate of an attack that the model has learnt."""
MAIN_RATE = 0.1
"""Poison rate of the paper."""


def chosen(rows: Sequence[Row], **conditions: object) -> list[Row]:
    """Give the rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in conditions.items())]


def grouped(rows: Sequence[Row], *keys: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Give rows that agree in some columns together; attacks in the order of the registry."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from sorted(groups.items(), key=lambda item: [_place(part) for part in item[0]])


def _place(part: object) -> tuple[float, str]:
    if isinstance(part, (int, float)):
        return float(part), ""
    names = list(ATTACKS)
    return (names.index(part) if part in names else -1), str(part)


def values(rows: Sequence[Row], name: str) -> list[float]:
    """Give what is known of a figure."""
    return [row[name] for row in rows if row[name] is not None]


def mean(rows: Sequence[Row], name: str) -> float | None:
    """Mean over what is known; None where nothing is."""
    known = values(rows, name)
    return sum(known) / len(known) if known else None


def spread(rows: Sequence[Row], name: str) -> str:
    """Write mean and range, with how many rows they are of where some have no such figure."""
    known, average = values(rows, name), mean(rows, name)
    if average is None:
        return "-"
    text = f"{average:.3f}"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    if low != high:
        text += f" ({low} to {high})"
    return text if len(known) == len(rows) else f"{text}, of {len(known)}"


def count_seeds(rows: Sequence[Row]) -> str:
    """Count the trainings that rows are of."""
    return str(len({row["seed"] for row in rows}))


def is_learnt(rows: Sequence[Row]) -> bool:
    """Tell whether the models of these rows obey the attack."""
    rate = mean(rows, "asr")
    return rate is not None and rate >= LEARNT


def percent(value: float | None) -> str:
    """Write a published per cent as the fraction that it is."""
    return "-" if value is None else f"{value / 100:.4f}"


def table(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    empty: str = "Nothing of this has been measured yet.",
) -> str:
    """Write a table; a sentence where it would have no row."""
    if not body:
        return empty
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
