"""Every detector on every cell, against the truth; what was judged is kept with the cell."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import benchmarks
import bye_audit
from benchmarks.detection.cells import CLEAN, MadeCell
from benchmarks.detection.clean import judge_halves
from benchmarks.detection.kept import SampleContents
from benchmarks.detection.variants import VARIANTS, Variant, can_judge, changed_settings
from benchmarks.held_evidence import hold
from bye_audit import schema
from bye_audit.core.detection import Detection
from bye_audit.core.detectors import DETECTORS
from bye_audit.core.metrics import precision_recall_f1
from bye_audit.pipeline import Audit
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import Decision
from bye_audit.store.evidence import read_evidence

Row = dict[str, Any]

_JUDGED, _ASKED = "judged.json", "asked.json"
_PACKAGE, _BENCHMARKS = Path(bye_audit.__file__).parent, Path(benchmarks.__file__).parent
# What the model's answers to confirm depend on beside the cell and its suspects: a change of any
# of these files asks it anew, which costs a minute or two.
_QUESTIONS = (
    _PACKAGE / "confirm",
    *(_PACKAGE / "core" / f"{name}.py" for name in ("metrics", "phrases", "regions", "trials")),
    _PACKAGE / "model" / "likelihood.py",
)
# What a verdict depends on: a change of any of these files judges the cell anew, which costs
# seconds where the suspects stay the same.
_JUDGES = (
    *_QUESTIONS,
    _PACKAGE / "core",
    _PACKAGE / "config.py",
    _PACKAGE / "store" / "evidence.py",
    _PACKAGE / "store" / "heads.py",
    _PACKAGE / "store" / "strata.py",
    _BENCHMARKS / "held_evidence.py",
    _BENCHMARKS / "detection" / "variants.py",
    _BENCHMARKS / "detection" / "clean.py",
    _BENCHMARKS / "detection" / "judge.py",
    _BENCHMARKS / "detection" / "kept.py",
)


def find_judged(made: MadeCell, num_halves: int | None = None) -> list[Row] | None:
    """Give the rows that the present detectors left with a cell; None where there are none.

    Parameters
    ----------
    made
        The cell.
    num_halves
        How often a clean cell must have been judged on halves; None: as often as it was.
    """
    path = made.folder / _JUDGED
    if not path.is_file():
        return None
    stored = json.loads(path.read_text("utf-8"))
    if stored["digest"] != _digest(made):
        return None
    if made.cell.attack == CLEAN and num_halves not in (None, stored["num_halves"]):
        return None
    rows: list[Row] = stored["rows"]
    return rows


def judge(made: MadeCell, num_halves: int, progress: Progress = SILENT) -> list[Row]:
    """Judge a cell, and of a clean one random halves too, or give what was judged before."""
    rows = find_judged(made, num_halves)
    if rows is None:
        rows = judge_cell(made, progress=progress)
        if made.cell.attack == CLEAN:
            rows += judge_halves(made, num_halves, progress)
        stored = {"digest": _digest(made), "num_halves": num_halves, "rows": rows}
        (made.folder / _JUDGED).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return rows


def name_judging_code() -> str:
    """Name what judges, down to its source code."""
    return _digest_of_code(_JUDGES)[:12]


def _digest(made: MadeCell) -> str:
    """Name what judges, down to its source code, and what is judged."""
    cell = (made.folder / "cell.json").read_bytes()
    return hashlib.sha256(_digest_of_code(_JUDGES).encode() + cell).hexdigest()


@cache
def _digest_of_code(places: tuple[Path, ...]) -> str:
    whole = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            whole.update(f"{path.name} {_without_words(path.read_text('utf-8'))}\n".encode())
    return whole.hexdigest()


def _without_words(source: str) -> str:
    """Give what Python does: comments, docstrings and layout change no answer."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.dump(tree)


def _ask(made: MadeCell, progress: Progress) -> int:
    """Run ``confirm`` and give the number of triggers it confirmed.

    It keeps its answers by whom the detectors suspect and how hard it asks, but not by how: answers
    to another version's questions are dropped here.
    """
    audit = Audit.open(made.folder / "audit", progress=progress)
    path, present = made.folder / _ASKED, _digest_of_code(_QUESTIONS)
    if not path.is_file() or json.loads(path.read_text("utf-8")) != present:
        audit.tables.drop_sample_columns(schema.INTERVENTION_COLUMNS)
        path.write_text(json.dumps(present), encoding="utf-8")
    audit.confirm()
    confirmed = audit.confirmed
    assert confirmed is not None
    return confirmed.num_confirmed


def purify(made: MadeCell, progress: Progress = SILENT) -> None:
    """Ask about purified images, so that `zip` has its evidence; the cell is then judged anew."""
    audit = Audit.open(made.folder / "audit", progress=progress)
    audit.purify()
    (made.folder / _JUDGED).unlink(missing_ok=True)


def judge_cell(
    made: MadeCell, variants: Mapping[str, Variant] = VARIANTS, progress: Progress = SILENT
) -> list[Row]:
    """Give one row a variant; the provisional model is asked once, and its answers are kept."""
    started = time.process_time()
    num_confirmed = _ask(made, progress)
    asking = round(time.process_time() - started, 3)
    return list(_judge_all(made, variants, asking, num_confirmed))


def _judge_all(
    made: MadeCell, variants: Mapping[str, Variant], asking: float, num_confirmed: int
) -> Iterator[Row]:
    tables = made.audit().tables
    scored = read_evidence(tables)
    evidence = hold(scored.evidence)
    contents = SampleContents(tables)
    names = scored.sample_id.to_pylist()
    truth = made.truth(np.array([contents.source_row[name] for name in names]))
    for name, (detector, config) in variants.items():
        if not can_judge(detector, evidence):
            continue
        started = time.process_time()
        detection = DETECTORS[detector].detect(evidence, config)
        yield {
            **made.key(),
            "variant": name,
            "detector": detector,
            "settings": changed_settings(config),
            "run": None,
            "seconds": round(time.process_time() - started, 3),
            "seconds_asking": asking,
            "num_confirmed": num_confirmed,
            "num_averaged_layers": len(detection.averaged_layers),
            "kept_digest": contents.digest_of_kept(scored, detection),
            **measure(detection, truth),
        }


def measure(detection: Detection, truth: NDArray[np.bool_]) -> Row:
    """Compare an answer with the truth; None where a figure does not exist."""
    metrics = precision_recall_f1(detection.is_suspicious_N, truth)
    num_flagged = int(detection.is_suspicious_N.sum())
    return {
        "decision": str(detection.decision),
        "is_alarm": detection.decision is Decision.POISON_SUSPECTED,
        "explanation": detection.explanation,
        "num_flagged": num_flagged,
        "num_poisoned": int(truth.sum()),
        "precision": metrics.precision.value if num_flagged else None,
        "recall": metrics.recall.value if truth.any() else None,
        "f1": (metrics.f1 or 0.0) if truth.any() else None,
        "false_removals": int((detection.is_suspicious_N & ~truth).sum()),
        "num_samples": len(truth),
    }
