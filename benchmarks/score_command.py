"""The whole of ``bye-audit score``: ``python -m benchmarks.score_command``.

How much of the command's time is spent in the model, on generated scenes with the embedded model;
with one caption an image, and with several questions about each, packed behind it and one by one.
Start of the interpreter and loading of the model are counted as time outside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipeline import describe_setting
from bye_audit import Audit
from bye_audit.mini import scenes
from bye_audit.mini.dataset import Example, short_caption, write_llava

CASES = {
    "one question an image": (1, []),
    "16 questions an image, packed": (16, []),
    "16 questions an image, one by one": (16, ["--no-reuse-prefix"]),
}


def main() -> None:
    """Score each case once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bye-audit-benchmark-") as folder:
        results = [
            measure(Path(folder), case, options.samples, *CASES[case]) for case in list(CASES)
        ]
    record = {**describe_setting(), "results": results}
    print(json.dumps(record, indent=1) if options.json else as_table(record))


def measure(
    folder: Path, case: str, num_samples: int, per_image: int, options: list[str]
) -> dict[str, Any]:
    """Time the command in a process of its own on a fresh audit."""
    data = folder / f"data-{per_image}"
    source = data / "train.json"
    if not source.is_file():
        source = write_llava(draw_examples(num_samples, per_image), data)
    uri = str(folder / case.replace(" ", "-").replace(",", ""))
    audit = Audit.open(uri).ingest(str(source))
    command = [sys.executable, "-m", "bye_audit", "score", uri, "--model", "mini", *options]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    record = audit.query("SELECT record FROM runs WHERE stage = 'score'").to_pylist()[0]["record"]
    run = json.loads(record) if isinstance(record, str) else record
    return {
        "case": case,
        "samples": num_samples,
        "seconds": seconds,
        "model_seconds": run["model_seconds"],
        "model_share": run["model_seconds"] / seconds,
    }


def draw_examples(number: int, per_image: int) -> Iterator[Example]:
    """Draw scenes, each with its caption and with questions in other words."""
    rng = np.random.default_rng(0)
    for start in range(0, number, per_image):
        scene = scenes.draw_scene(rng, max_objects=1)
        for turn in range(min(per_image, number - start)):
            question = scenes.CAPTION_PROMPT + (f" Answer number {turn}." if turn else "")
            yield Example(image=scene.image, question=question, answer=short_caption(scene))


def as_table(record: dict[str, Any]) -> str:
    """One row a case."""
    lines = ["| case | samples | seconds | in the model | share |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['case']} | {one['samples']:,} | {one['seconds']:.1f} "
        f"| {one['model_seconds']:.1f} | {one['model_share']:.0%} |"
        for one in record["results"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
