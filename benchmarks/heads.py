"""What the vote of attention heads finds: ``python -m benchmarks.heads``.

Without folders it judges made-up heads (:mod:`benchmarks.synthetic_heads`), each world drawn anew
for every run. ``--audits`` takes folders that the demo or ``benchmarks.pipeline`` left: whole, with
only some of the poison, and their samples without any of it, random shares of 50 to 90 % again and
again. Those draws are of one model's scores, so that they are no independent trials.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.held_evidence import read_planted, take_rows
from benchmarks.synthetic_heads import CLEAN, CLEAN_BUT_SPLIT, POISONED, make_heads, with_gains
from bye_audit.config import DetectConfig, TcapConfig
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors.tcap import detect_tcap

RATES = (0.05, 0.02, 0.01, 0.005)
SETTINGS = {
    "default": TcapConfig(),
    "agree with plausibility": TcapConfig(agree_with="plausibility"),
    "with image entropy": TcapConfig(statistics=(*TcapConfig().statistics, "image_entropy")),
    "system mass only": TcapConfig(statistics=("system_mass",)),
    "linear masses": TcapConfig(mass_scale="linear"),
    "BIC": TcapConfig(criterion="bic"),
    "all layers": TcapConfig(last_layers=10_000),
}

Case = tuple[Evidence, NDArray[np.bool_]]


@dataclass(frozen=True)
class Trial:
    """A kind of data that is judged, with what draws it for a seed."""

    name: str
    settings: str
    num_runs: int
    draw: Callable[[int], Case]


def main() -> None:
    """Judge every kind of data and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--audits", type=Path, nargs="*", default=[], help="instead of made-up data"
    )
    parser.add_argument("--runs", type=int, default=100, help="draws of clean data (default 100)")
    parser.add_argument("--poisoned-runs", type=int, default=20, help="of poisoned (default 20)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS)[:2])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = []
    if not options.json:
        print(_header(), flush=True)
    for trial in _audit_trials(options) if options.audits else _made_up_trials(options):
        rows.append(_judge(trial))
        if not options.json:
            print(_line(rows[-1]), flush=True)
    if options.json:
        record = {"machine": f"{platform.machine()}, Python {platform.python_version()}"}
        print(json.dumps({**record, "rows": rows}, indent=1))


def _made_up_trials(options: argparse.Namespace) -> Iterator[Trial]:
    for world in (*CLEAN, *CLEAN_BUT_SPLIT, *POISONED):
        num_runs = options.poisoned_runs if world.rate else options.runs
        for settings in options.settings:
            made = with_gains(world) if settings == "agree with plausibility" else world
            yield Trial(made.name, settings, num_runs, partial(make_heads, made))


def _audit_trials(options: argparse.Namespace) -> Iterator[Trial]:
    for folder in options.audits:
        evidence, is_poisoned = read_planted(folder)
        assert evidence.heads is not None, f"{folder} has no statistics of heads"
        clean, planted = np.flatnonzero(~is_poisoned), np.flatnonzero(is_poisoned)
        for settings in options.settings:
            name = folder.name
            yield Trial(name, settings, 1, partial(_whole, (evidence, is_poisoned)))
            for rate in RATES:
                count = round(rate / (1 - rate) * clean.size)
                if count < planted.size:
                    draw = _drawing(evidence, is_poisoned, clean, planted, count)
                    yield Trial(f"{name}, {rate:.1%} poison", settings, options.poisoned_runs, draw)
            draw = _drawing(evidence, is_poisoned, clean, planted, 0)
            yield Trial(f"{name}, clean rows", settings, options.runs, draw)


def _whole(case: Case, seed: int) -> Case:
    del seed
    return case


def _drawing(
    evidence: Evidence,
    is_poisoned: NDArray[np.bool_],
    clean: NDArray[np.integer],
    planted: NDArray[np.integer],
    num_planted: int,
) -> Callable[[int], Case]:
    """Draw so many of the planted, and all of the clean or, without any planted, some of them."""

    def draw(seed: int) -> Case:
        rng = np.random.default_rng([seed, num_planted])
        kept = clean
        if not num_planted:
            size = int(clean.size * rng.uniform(0.5, 0.9))
            kept = rng.choice(clean, size, replace=False)
        rows = np.sort(np.concatenate([kept, rng.choice(planted, num_planted, replace=False)]))
        return take_rows(evidence, rows), is_poisoned[rows]

    return draw


def _judge(trial: Trial) -> dict[str, Any]:
    decisions, scores, removed, wrong = [], [], [], []
    has_poison = False
    started = time.process_time()
    for seed in range(trial.num_runs):
        evidence, truth = trial.draw(seed)
        detection = detect_tcap(evidence, DetectConfig(seed=seed, tcap=SETTINGS[trial.settings]))
        flagged, has_poison = detection.is_suspicious_N, bool(truth.any())
        decisions.append(str(detection.decision))
        scores.append(2 * (flagged & truth).sum() / max(int(flagged.sum() + truth.sum()), 1))
        removed.append(float(flagged.mean()))
        wrong.append(float((flagged & ~truth).sum() / max(int((~truth).sum()), 1)))
    return {
        "data": trial.name,
        "settings": trial.settings,
        "runs": trial.num_runs,
        "poison_suspected": decisions.count("poison_suspected"),
        "inconclusive": decisions.count("inconclusive"),
        "no_evidence": decisions.count("no_evidence"),
        "mean_f1": float(np.mean(scores)) if has_poison else None,
        "min_f1": float(np.min(scores)) if has_poison else None,
        "mean_removed_share": float(np.mean(removed)),
        "mean_clean_removed_share": float(np.mean(wrong)),
        "cpu_seconds_a_run": (time.process_time() - started) / trial.num_runs,
    }


def _header() -> str:
    names: Sequence[str] = (
        "data",
        "settings",
        "runs",
        "suspected",
        "inconclusive",
        "no evidence",
        "F1 mean (least)",
        "clean removed",
        "s",
    )
    return f"| {' | '.join(names)} |\n|{' --- |' * len(names)}"


def _line(row: dict[str, Any]) -> str:
    f1 = "-" if row["mean_f1"] is None else f"{row['mean_f1']:.3f} ({row['min_f1']:.3f})"
    return (
        f"| {row['data']} | {row['settings']} | {row['runs']} | {row['poison_suspected']} | "
        f"{row['inconclusive']} | {row['no_evidence']} | {f1} | "
        f"{row['mean_clean_removed_share']:.3%} | {row['cpu_seconds_a_run']:.1f} |"
    )


if __name__ == "__main__":
    main()
