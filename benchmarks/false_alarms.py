"""What the detectors say of clean data: ``python -m benchmarks.false_alarms``.

Made-up evidence has one mode of several shapes, or two innocent ones as two tasks in one dataset
would; half of the variance of a layer is common to all layers. ``--demos`` takes folders that the
demo or ``benchmarks.pipeline`` left: random halves of their samples without the planted ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.held_evidence import read_planted, take_rows
from bye_audit.config import DetectConfig
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS

JUDGES = ("bye", "plausibility")
LARGEST_ENTROPY = 6.36
COMMON_VARIANCE = 0.5
TASK_DISTANCE = 5.0
# Quantile functions; the long tail is on the suspicious side of either detector.
SHAPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "normal": stats.norm.ppf,
    "Student t, 3": stats.t(3).ppf,
    "Laplace": stats.laplace.ppf,
    "gamma 2": lambda share: -stats.gamma(2).ppf(1 - share),
    "exponential": lambda share: -stats.expon.ppf(1 - share),
    "lognormal 0.8": lambda share: -stats.lognorm(0.8).ppf(1 - share),
    "beta 5, 1.5": stats.beta(5, 1.5).ppf,
    "uniform": lambda share: share,
    "normal, 2 % scattered": lambda share: np.where(
        share < 0.02, -2.05 - 2.5 * stats.expon.ppf(1 - share / 0.02), stats.norm.ppf(share)
    ),
}
TASKS = {"two tasks, 60/40": 0.4, "two tasks, 90/10": 0.1}


def main() -> None:
    """Judge clean data again and again and print how often it was called poisoned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES, *TASKS], help="of made-up data")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--demos", type=Path, nargs="*", default=[], help="instead of made-up data")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = []
    for name, draw in _cases(options):
        for judge in JUDGES:
            rows.append({"data": name, "detector": judge, **_repeat(judge, draw, options.runs)})
            if not options.json:
                print(_line(rows[-1]), flush=True)
    if options.json:
        record = {"machine": f"{platform.machine()}, Python {platform.python_version()}"}
        print(json.dumps({**record, "rows": rows}, indent=1))


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[int], Evidence]]]:
    """Name every kind of clean data, with what draws it anew for a seed."""
    if options.demos:
        for folder in options.demos:
            yield f"{folder.name}, halves", partial(_half, *read_planted(folder))
        return
    for num_samples in options.samples:
        for shape in options.shapes:
            yield (
                f"{shape}, {num_samples:,}",
                partial(make_clean, shape, num_samples, options.layers),
            )


def make_clean(shape: str, num_samples: int, num_layers: int, seed: int) -> Evidence:
    """Draw entropies and gains of one shape; the gains' long tail is the high one."""
    rng = np.random.default_rng([seed, num_samples])
    common_N1 = np.sqrt(COMMON_VARIANCE) * rng.normal(size=(num_samples, 1))
    normal_NL = common_N1 + np.sqrt(1 - COMMON_VARIANCE) * rng.normal(
        size=(num_samples, num_layers + 1)
    )
    if shape in TASKS:
        is_other_N = rng.random(num_samples) < TASKS[shape]
        # Every second layer tells the tasks apart, and so do the gains.
        normal_NL[np.ix_(is_other_N, np.arange(0, num_layers + 1, 2))] -= TASK_DISTANCE
        value_NL = normal_NL
    else:
        value_NL = SHAPES[shape](stats.norm.cdf(normal_NL))
        value_NL = value_NL / value_NL.std(axis=0)
    entropy_NL = LARGEST_ENTROPY - 1 + 0.2 * (value_NL[:, :-1] - value_NL[:, :-1].mean(axis=0))
    return Evidence(
        entropy_NL=entropy_NL,
        answer_logp_N=-0.3 * value_NL[:, -1],
        answer_logp_base_N=np.zeros(num_samples),
    )


def _half(whole: Evidence, is_poisoned_N: NDArray[np.bool_], seed: int) -> Evidence:
    clean = np.flatnonzero(~is_poisoned_N)
    rows = np.random.default_rng(seed).choice(clean, clean.size // 2, replace=False)
    return take_rows(whole, rows)


def _repeat(judge: str, draw: Callable[[int], Evidence], num_runs: int) -> dict[str, Any]:
    """Judge one kind of data with other draws and count the answers."""
    decisions, removed = [], []
    started = time.monotonic()
    for seed in range(num_runs):
        detection = DETECTORS[judge].detect(draw(seed), DetectConfig(seed=seed))
        decisions.append(str(detection.decision))
        removed.append(float(detection.is_suspicious_N.mean()))
    return {
        "runs": num_runs,
        "poison_suspected": decisions.count("poison_suspected") / num_runs,
        "inconclusive": decisions.count("inconclusive") / num_runs,
        "mean_removed_share": float(np.mean(removed)),
        "max_removed_share": max(removed),
        "seconds": time.monotonic() - started,
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"| {row['data']} | {row['detector']} | {row['runs']} | {row['poison_suspected']:.0%} | "
        f"{row['inconclusive']:.0%} | {row['mean_removed_share']:.3%} | "
        f"{row['max_removed_share']:.2%} | {row['seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
