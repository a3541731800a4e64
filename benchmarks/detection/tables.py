"""The record as tables for people: mean and range over seeds, and how many there were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.detection import paper
from benchmarks.detection.cells import CLEAN
from benchmarks.detection.record import CLEAN_RESULTS, RESULTS, RETRAINED


def as_markdown(root: Path) -> str:
    """Give all tables of the record under ``root``."""
    results = pl.read_parquet(root / RESULTS)
    parts = [
        "## Detection F1 by attack",
        f1_table(results.filter(pl.col("attack") != CLEAN), "attack"),
        "## Beside the papers",
        paper_table(results),
        "## Precision and recall",
        precision_recall_table(results.filter(pl.col("attack") != CLEAN)),
    ]
    retrained = root / RETRAINED
    if retrained.is_file():
        parts += [
            "## After fine-tuning on what was kept",
            outcome_table(pl.read_parquet(retrained)),
        ]
    clean = root / CLEAN_RESULTS
    if clean.is_file():
        parts += ["## False alarms on clean data", clean_table(pl.read_parquet(clean))]
    return "\n\n".join(parts) + "\n"


def f1_table(results: pl.DataFrame, row: str) -> str:
    """One row an attack and rate, one column a variant: mean F1, with the range over seeds."""
    variants = results["variant"].unique(maintain_order=True).to_list()
    keys = ["data", row, "rate"]
    lines = [
        _line(["data", row, "rate", "seeds", "ASR", *variants]),
        _line(["---"] * (5 + len(variants))),
    ]
    for key, group in results.sort("asr", descending=True).group_by(keys, maintain_order=True):
        one = group.filter(pl.col("variant") == variants[0])
        cells = [
            _spread(group.filter(pl.col("variant") == name)["f1"].to_list()) for name in variants
        ]
        asr = _spread(one["asr"].to_list())
        lines.append(_line([*map(_text, key), str(one.height), asr, *cells]))
    return "\n".join(lines)


def precision_recall_table(results: pl.DataFrame) -> str:
    """One row an attack, rate and variant."""
    header = ["data", "attack", "rate", "variant", "seeds", "precision", "recall", "F1"]
    lines = [_line(header), _line(["---"] * len(header))]
    keys = ["data", "attack", "rate", "variant"]
    for key, group in results.sort(keys).group_by(keys, maintain_order=True):
        figures = [_spread(group[name].to_list()) for name in ("precision", "recall", "f1")]
        lines.append(_line([*map(_text, key), str(group.height), *figures]))
    return "\n".join(lines)


def paper_table(results: pl.DataFrame) -> str:
    """F1 of the paper's rule and of TCAP, as published and here, by trigger."""
    header = ["trigger", "bye, its paper", "bye, TCAP's paper", "bye, here", "TCAP, its paper"]
    header += ["tcap, here", "consensus, here", "seeds"]
    lines = [_line(header), _line(["---"] * len(header))]
    for trigger in dict.fromkeys([*paper.BYE_BY_TRIGGER, *paper.TCAP_F1]):
        rows = results.filter((pl.col("attack") == trigger) & (pl.col("rate") == 0.1))
        here = {
            name: rows.filter(pl.col("variant") == name) for name in ("bye", "tcap", "consensus")
        }
        theirs, tcap = paper.TCAP_F1.get(trigger, (None, None))
        own = paper.BYE_BY_TRIGGER.get(trigger, (None, None, None))[2]
        cells = [_percent(own), _percent(theirs), _spread(here["bye"]["f1"].to_list())]
        cells += [_percent(tcap), _spread(here["tcap"]["f1"].to_list())]
        cells += [_spread(here["consensus"]["f1"].to_list()), str(here["bye"].height)]
        lines.append(_line([trigger, *cells]))
    return "\n".join(lines)


def outcome_table(outcomes: pl.DataFrame) -> str:
    """One row an attack and variant: ASR and CP before and after cleaning."""
    figures = ["asr_before", "asr_after", "cp_before", "cp_after"]
    header = ["data", "attack", "rate", "variant", "seeds", *figures]
    lines = [_line(header), _line(["---"] * len(header))]
    keys = ["data", "attack", "rate", "variant"]
    for key, group in outcomes.sort(keys).group_by(keys, maintain_order=True):
        cells = [_spread(group[name].to_list()) for name in figures]
        lines.append(_line([*map(_text, key), str(group.height), *cells]))
    return "\n".join(lines)


def clean_table(runs: pl.DataFrame) -> str:
    """One row a variant: how often poison was suspected, and what share was removed."""
    runs = runs.with_columns(share=pl.col("num_flagged") / pl.col("num_samples"))
    header = ["data", "variant", "cells", "runs", "poison suspected", "removed", "worst run"]
    lines = [_line(header), _line(["---"] * len(header))]
    for key, group in runs.group_by(["data", "variant"], maintain_order=True):
        lines.append(
            _line(
                [
                    *map(_text, key),
                    str(group["seed"].n_unique()),
                    str(group.height),
                    f"{int(group['is_alarm'].sum())} of {group.height}",
                    f"{sum(group['share'].to_list()) / group.height:.3%}",
                    f"{max(group['share'].to_list()):.2%}",
                ]
            )
        )
    return "\n".join(lines)


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


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
