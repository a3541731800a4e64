"""The record as tables for people: mean and range over seeds, and how many there were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection import paper
from benchmarks.detection.cells import CLEAN
from benchmarks.detection.record import CLEAN_RESULTS, RESULTS, RETRAINED, read_rows

Row = dict[str, Any]


def as_markdown(root: Path) -> str:
    """Give all tables of the record under ``root``."""
    results = read_rows(root / RESULTS)
    poisoned = [row for row in results if row["attack"] != CLEAN]
    parts = [
        "## Detection F1 by attack",
        f1_table(poisoned),
        "## Beside the papers",
        paper_table(poisoned),
        "## Precision and recall",
        precision_recall_table(poisoned),
    ]
    if outcomes := read_rows(root / RETRAINED):
        parts += ["## After fine-tuning on what was kept", outcome_table(outcomes)]
    if whole := [row for row in results if row["attack"] == CLEAN]:
        parts += ["## Clean data, whole", clean_table(whole)]
    if halves := read_rows(root / CLEAN_RESULTS):
        parts += ["## Clean data, random halves", clean_table(halves)]
    return "\n\n".join(parts) + "\n"


def f1_table(rows: Sequence[Row]) -> str:
    """One row an attack and rate, one column a variant: mean F1, with the range over seeds."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    body = []
    for key, group in _grouped(rows, ["data", "attack", "rate"]):
        by_variant = {name: _of(group, name) for name in variants}
        asr = _spread([row["asr"] for row in by_variant[variants[0]]])
        f1 = [_spread([row["f1"] for row in by_variant[name]]) for name in variants]
        body.append([*key, str(len(by_variant[variants[0]])), asr, *f1])
    return _table(["data", "attack", "rate", "seeds", "ASR", *variants], body)


def paper_table(rows: Sequence[Row]) -> str:
    """F1 of the paper's rule and of TCAP, as published and here, by trigger, at a rate of 0.1."""
    header = ["trigger", "bye, its paper", "bye, TCAP's paper", "bye, here", "TCAP, its paper"]
    header += ["tcap, here", "consensus, here", "seeds"]
    body = []
    for trigger in dict.fromkeys([*paper.BYE_BY_TRIGGER, *paper.TCAP_F1]):
        here = [row for row in rows if (row["attack"], row["rate"]) == (trigger, 0.1)]
        bye, tcap, consensus = (
            _spread([row["f1"] for row in _of(here, name)]) for name in ("bye", "tcap", "consensus")
        )
        theirs, their_tcap = paper.TCAP_F1.get(trigger, (None, None))
        own = paper.BYE_BY_TRIGGER.get(trigger, (None, None, None))[2]
        figures = [_percent(own), _percent(theirs), bye, _percent(their_tcap), tcap, consensus]
        body.append([trigger, *figures, str(len(_of(here, "bye")))])
    return _table(header, body)


def precision_recall_table(rows: Sequence[Row]) -> str:
    """One row an attack, rate and variant."""
    figures = ["precision", "recall", "f1"]
    return _figures(rows, ["data", "attack", "rate", "variant"], figures)


def outcome_table(rows: Sequence[Row]) -> str:
    """One row an attack and variant: ASR and CP before and after cleaning."""
    figures = ["asr_before", "asr_after", "cp_before", "cp_after"]
    return _figures(rows, ["data", "attack", "rate", "variant"], figures)


def clean_table(rows: Sequence[Row]) -> str:
    """One row a variant: how often poison was suspected, and what share was removed."""
    body = []
    for key, group in _grouped(rows, ["data", "variant"]):
        shares = [row["num_flagged"] / row["num_samples"] for row in group]
        num_cells = len({row["seed"] for row in group})
        alarms = f"{sum(row['is_alarm'] for row in group)} of {len(group)}"
        mean = sum(shares) / len(shares)
        body.append([*key, str(num_cells), alarms, f"{mean:.3%}", f"{max(shares):.2%}"])
    header = ["data", "variant", "trainings", "poison suspected", "removed", "worst run"]
    return _table(header, body)


def _figures(rows: Sequence[Row], keys: list[str], figures: list[str]) -> str:
    body = [
        [*key, str(len(group)), *(_spread([row[name] for row in group]) for name in figures)]
        for key, group in _grouped(rows, keys)
    ]
    return _table([*keys, "seeds", *figures], body)


def _grouped(rows: Sequence[Row], keys: list[str]) -> list[tuple[list[str], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [([_text(part) for part in key], group) for key, group in sorted(groups.items())]


def _of(rows: Sequence[Row], variant: str) -> list[Row]:
    return [row for row in rows if row["variant"] == variant]


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.3f}"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return mean if low == high else f"{mean} ({low} to {high})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value / 100:.3f}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
