"""Throughput of ``score --engine ray`` by number of workers: ``python -m benchmarks.scale_out``.

Two curves on this machine. ``sleeping``: workers that read and encode every sample as the real ones
do, and then sleep for a fixed time a sample instead of running a model, so that they need no cores
and show what Ray, reading and committing leave of a perfect curve. ``mini``: the embedded model,
which does need a core a worker. Both go through the stage's own ledger into a real table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.pipeline import describe_setting
from bye_audit import Audit, mini, schema
from bye_audit.config import ScoreConfig
from bye_audit.model.samples import PreparedSample, SampleScore
from bye_audit.model.scoring import SampleScorer
from bye_audit.schema import ScoreStatus
from bye_audit.score.ledger import Ledger, ScoreSummary
from bye_audit.score.ray_engine import make_assignment, score_on_ray
from bye_audit.score.ray_worker import ScoreWorker
from bye_audit.score.work import WindowReader, plan_windows
from bye_audit.store.tables import AuditTables

MODEL = str(mini.model_dir())
SECONDS_A_SAMPLE = 0.05
NUM_LAYERS, NUM_HEADS = 32, 32
"""Of LLaVA-1.5-7B: the size of what is sent back and committed."""


class SleepingScorer:
    """Takes a fixed time for each sample, as a GPU would of a worker's time."""

    def score(self, samples: Sequence[PreparedSample]) -> Iterator[list[SampleScore]]:
        """Make up scores of the right size."""
        rng = np.random.default_rng(0)
        for sample in samples:
            time.sleep(SECONDS_A_SAMPLE)
            yield [
                SampleScore(
                    sample.sample_id,
                    ScoreStatus.OK,
                    num_image_tokens=576,
                    entropy_L=rng.uniform(0, 6, NUM_LAYERS),
                    image_mass_L=rng.uniform(0, 1, NUM_LAYERS),
                    heads_SLH=rng.uniform(0, 1, (4, NUM_LAYERS, NUM_HEADS)),
                    answer_logp=-1.0,
                    answer_logp_base=-2.0,
                )
            ]


class PunctualWorker(ScoreWorker):
    """Begins when all others are ready, so that starting them is no part of the rate."""

    def open_model(self) -> tuple[WindowReader, SampleScorer]:
        """Open the model and wait for the others."""
        opened = super().open_model()
        ready = _ready_dir(self._assignment.tables)
        (ready / str(os.getpid())).touch()
        while len(list(ready.iterdir())) < (self._assignment.config.ray_workers or 1):
            time.sleep(0.05)
        return opened


class SleepingWorker(PunctualWorker):
    """Reads with the embedded model's processor and sleeps in place of the model."""

    def open_model(self) -> tuple[WindowReader, SampleScorer]:
        """Keep the reader, and put the model out of the way."""
        return super().open_model()[0], cast("SampleScorer", SleepingScorer())


def main() -> None:
    """Measure both curves and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sleeping", type=int, nargs="*", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--mini", type=int, nargs="*", default=[1, 2], metavar="N")
    parser.add_argument("--samples", type=int, default=400, help="samples a sleeping worker")
    parser.add_argument("--mini-samples", type=int, default=600, help="samples in all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with _scratch() as folder:
        largest = max([*(n * options.samples for n in options.sleeping), options.mini_samples])
        source = _ingest_scenes(folder, largest)
        sleeping = [
            measure(source, folder, SleepingWorker, number, number * options.samples)
            for number in options.sleeping
        ]
        real = [
            measure(source, folder, PunctualWorker, number, options.mini_samples)
            for number in options.mini
        ]
    record = {
        **describe_setting(),
        "cores": os.cpu_count(),
        "ray": _ray_version(),
        "seconds_a_sample": SECONDS_A_SAMPLE,
        "sleeping": sleeping,
        "mini": real,
    }
    print(json.dumps(record, indent=1) if options.json else as_table(record))


def measure(
    source: Path, folder: Path, worker: type[ScoreWorker], num_workers: int, num_samples: int
) -> dict[str, Any]:
    """Score a copy of the audit with so many workers; the rate is from when all are ready."""
    audit = folder / f"{worker.__name__}-{num_workers}"
    shutil.copytree(source, audit)
    tables = AuditTables.open(audit)
    _ready_dir(tables).mkdir()
    config = ScoreConfig(
        engine="ray", ray_workers=num_workers, gpus_per_worker=0, commit_seconds=5.0
    )
    assignment = make_assignment(tables, MODEL, None, config, trust_remote_code=False)
    num_layers = NUM_LAYERS if worker is SleepingWorker else assignment.identity.num_layers
    tables.add_sample_columns(schema.score_fields(num_layers, {"run": "benchmark"}))
    rows = np.concatenate(plan_windows(tables, retries_errors=False))[:num_samples]
    summary = ScoreSummary("benchmark")
    ledger = Ledger(tables, summary, num_layers, "benchmark", config.commit_seconds)
    started = arrived = time.time()
    for scores in score_on_ray(assignment, [rows], summary, worker):
        ledger.add(scores)
        arrived = time.time()
    ledger.commit()
    committed = time.time()
    assert tables.num_samples("score_status = 'ok'") == num_samples
    ready = max(path.stat().st_mtime for path in _ready_dir(tables).iterdir())
    shutil.rmtree(audit)
    return {
        "workers": num_workers,
        "samples": num_samples,
        "ready_after_s": round(ready - started, 1),
        "samples_a_second": round(num_samples / (arrived - ready), 1),
        "seconds": round(committed - started, 1),
    }


def as_table(record: dict[str, Any]) -> str:
    """Markdown: both curves, each against its own first row."""
    lines = []
    for name in ("sleeping", "mini"):
        lines += [
            f"{name}:",
            "",
            "| workers | samples | samples/s | speed-up | ready after | all |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for row in record[name]:
            one = record[name][0]["samples_a_second"] / record[name][0]["workers"]
            lines.append(
                f"| {row['workers']} | {row['samples']:,} | {row['samples_a_second']:.1f} "
                f"| {row['samples_a_second'] / one:.2f} | {row['ready_after_s']:.0f} s "
                f"| {row['seconds']:.0f} s |"
            )
        lines.append("")
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines.append(
        f"{record['machine']}, {record['cores']} cores; ray {record['ray']}, {versions}; "
        f"commit {record['commit']}."
    )
    return "\n".join(lines)


def _ingest_scenes(folder: Path, num_samples: int) -> Path:
    from bye_audit.mini import scenes

    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    records = []
    for number in range(num_samples):
        scene = scenes.draw_scene(rng)
        scene.image.save(folder / "images" / f"{number}.png")
        turns = [("human", f"<image>\n{scenes.CAPTION_PROMPT}"), ("gpt", scenes.caption(scene))]
        records.append(
            {
                "id": str(number),
                "image": f"images/{number}.png",
                "conversations": [{"from": who, "value": text} for who, text in turns],
            }
        )
    source = folder / "scenes.json"
    source.write_text(json.dumps(records), encoding="utf-8")
    Audit.open(folder / "audit").ingest(source)
    return folder / "audit"


def _ready_dir(tables: AuditTables) -> Path:
    return Path(tables.uri) / "ready"


def _ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bye-audit-scale-out-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
