"""The whole job, measured over seeds: ``python -m benchmarks.pipeline``.

Every seed is a process of its own, so that wall time and peak memory are those of one user's run.
``--data scenes`` is the demo itself; ``--data easy-vqa`` sends every image and question of
easy-VQA's training half through every stage.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bye_audit.config import DEFAULT_DETECTOR
from bye_audit.core.detectors import DETECTORS
from bye_audit.demo import DemoPlan, plan_demo, run_demo

PACKAGES = ("torch", "transformers", "peft", "lancedb", "pylance", "scikit-learn")
FIGURES = (
    "asr_before",
    "asr_after",
    "cp_before",
    "cp_after",
    "precision",
    "recall",
    "f1",
    "seconds",
    "peak_memory_mb",
)


def main() -> None:
    """Run every seed and print the table, or one seed for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("scenes", "easy-vqa"), default="scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("benchmark-pipeline"))
    parser.add_argument("--detector", choices=DETECTORS, default=DEFAULT_DETECTOR)
    parser.add_argument("--quick", action="store_true", help="the demo's quick form")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    results = [run_in_process(options, seed) for seed in options.seeds]
    record = {**describe_setting(), "data": options.data, "results": results}
    print(json.dumps(record, indent=1) if options.json else as_table(record))


def run_in_process(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Measure one seed in a fresh process, or read what an earlier call measured.

    Its bars go to this process's stderr.
    """
    finished = options.out / f"{options.data}-{seed}" / "demo.json"
    if finished.is_file():
        earlier: dict[str, Any] = json.loads(finished.read_text("utf-8"))
        return earlier
    command = [sys.executable, "-m", "benchmarks.pipeline", "--one", "--data", options.data]
    command += ["--seeds", str(seed), "--out", str(options.out), "--detector", options.detector]
    command += ["--quick"] if options.quick else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_one(options: argparse.Namespace) -> None:
    """Measure one seed here and print its figures as JSON."""
    from bye_audit.cli.progress import make_progress

    seed = options.seeds[0]
    demo = plan_demo(quick=options.quick, seed=seed)
    plan = plan_easy_vqa(seed) if options.data == "easy-vqa" else demo
    result = run_demo(
        options.out / f"{options.data}-{seed}",
        seed=seed,
        plan=replace(plan, detector=options.detector),
        progress=make_progress(),
    )
    print(json.dumps(result.to_json()))


def plan_easy_vqa(seed: int) -> DemoPlan:
    """Take the demo's settings and attack to easy-VQA; one epoch is 2,411 steps there."""
    from benchmarks.easy_vqa_data import EasyVqa

    demo = plan_demo(quick=False, seed=seed)
    return replace(
        demo,
        examples=EasyVqa(num_test=2000),
        finetune=replace(demo.finetune, epochs=1),
    )


def describe_setting() -> dict[str, Any]:
    """Say on what and with which versions the figures were measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
    }


def as_table(record: dict[str, Any]) -> str:
    """Markdown: one row a seed, their means with the range, then every detector."""
    results = record["results"]
    lines = _rows(["seed", *FIGURES], [[r["seed"], *(r[f] for f in FIGURES)] for r in results])
    if len(results) > 1:
        lines.append(_row(["mean (range)", *(_spread([r[f] for r in results]) for f in FIGURES)]))
    lines += ["", *_detector_rows(results), "", *_layer_rows(results), ""]
    lines.append(
        f"{record['data']}, commit {record['commit']}, {record['machine']}, "
        + ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    )
    return "\n".join(lines)


def _detector_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    header = ["seed", "detector", "decision", "precision", "recall", "f1"]
    return _rows(
        header,
        [
            [result["seed"], name, *(score[column] for column in header[2:])]
            for result in results
            for name, score in result["detectors"].items()
        ],
    )


def _layer_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    layers = list(results[0]["bsi"])
    return _rows(
        ["seed", *(f"BSI {layer}" for layer in layers), "sensitive layers"],
        [
            [r["seed"], *(r["bsi"][layer] for layer in layers), str(r["sensitive_layers"])]
            for r in results
        ],
    )


def _rows(header: Sequence[str], body: Sequence[Sequence[Any]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *(_row(cells) for cells in body)]


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) and abs(cell) < 100 else str(cell)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{_text(statistics.fmean(known))} ({_text(min(known))} to {_text(max(known))})"


if __name__ == "__main__":
    main()
