"""The whole job on data and a model that travel with the package, with the poison known.

The demo only supplies the data and the model: every stage is the one of ``bye-audit run``. What it
adds is the measurement that needs the truth: how much of the poison was found, and what a model
fine-tuned on the cleaned split does when it meets the trigger.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DEFAULT_DETECTOR, FinetuneConfig
from bye_audit.errors import ConfigError, StageNotRunError
from bye_audit.mini import dataset
from bye_audit.poison.attacks import ATTACKS
from bye_audit.poison.planting import Attack, Planting
from bye_audit.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from PIL import Image

    from bye_audit.pipeline import Audit
    from bye_audit.pipeline.provisional import Provisional


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPlan:
    """What the demo audits, what it plants there and how it trains."""

    examples: dataset.ExampleSource
    finetune: FinetuneConfig
    refinetune: bool
    detector: str = DEFAULT_DETECTOR
    attack: Attack = field(
        # The model's patches are 1/9 of the side. A square of 1/8 covers 1.1 of them, as the
        # paper's 1/16 covers 1.5 of LLaVA's 24: what counts is trigger against patch.
        default_factory=lambda: ATTACKS["patch"].build(relative_size=1 / 8)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorScore:
    """What one detector said and how right it was; fractions, positive means poisoned."""

    decision: str
    precision: float
    recall: float
    f1: float
    num_suspicious: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """Everything the demo measured; fractions in [0, 1], None where ``--quick`` skipped it."""

    detector: str
    decision: str
    precision: float
    recall: float
    f1: float
    detectors: dict[str, DetectorScore]
    bsi: dict[int, float]
    sensitive_layers: list[int]
    asr_before: float | None
    asr_after: float | None
    cp_before: float | None
    cp_after: float | None
    num_samples: int
    num_poisoned: int
    num_removed: int
    seed: int
    seconds: float
    peak_memory_mb: float
    report: str
    split: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def summary_lines(self) -> list[str]:
        """Return what a person reads at the end."""
        lines = [
            f"Planted {self.num_poisoned} poisoned samples among {self.num_samples}; "
            f"the filter removed {self.num_removed} ({self.decision}).",
        ]
        lines += [
            f"  {name:<13} {score.decision:<17} precision {score.precision:6.1%}  "
            f"recall {score.recall:6.1%}  F1 {score.f1:5.3f}"
            + ("  <- used" if name == self.detector else "")
            for name, score in self.detectors.items()
        ]
        if self.asr_before is not None:
            lines.append(f"Attack success rate, fine-tuned on all the data  {self.asr_before:6.1%}")
        if self.asr_after is not None:
            lines.append(f"Attack success rate, on the cleaned split        {self.asr_after:6.1%}")
        if self.cp_before is not None and self.cp_after is not None:
            lines.append(
                f"Clean performance before and after               {self.cp_before:6.1%}"
                f" -> {self.cp_after:.1%}"
            )
        lines += [
            f"{self.seconds:.0f} seconds, {self.peak_memory_mb:.0f} MB at most.",
            f"Report: {self.report}",
            f"Split:  {self.split}",
            "Next: open the report, then audit your own data with",
            "  bye-audit run AUDIT train.json --model MODEL --out DIR",
        ]
        return lines


def run_demo(
    out_dir: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    plan: DemoPlan | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """Poison clean data, audit it as ``bye-audit run`` does, and measure what that bought.

    Parameters
    ----------
    out_dir
        Gets the data, the audit, the split, the report and ``demo.json``. A demo that was
        stopped goes on where it was when the same folder and options are given again.
    quick
        Less data, and no second fine-tuning.
    seed
        Of the scenes, the poison and the training.
    plan
        Other data or settings than the demo's own; ``quick`` is then without meaning.
    progress
        Where to report.

    Returns
    -------
    DemoResult
        All measurements.

    Raises
    ------
    ConfigError
        If ``out_dir`` holds a demo with other options.
    """
    from bye_audit.pipeline import EMBEDDED_MODEL, Audit

    started = time.monotonic()
    plan = plan or plan_demo(quick=quick, seed=seed)
    _claim(out_dir, {"seed": seed, "plan": repr(plan)})
    source, planting = plant_data(out_dir, plan, seed, progress)
    audit = Audit.open(out_dir / "audit", progress=progress)
    audit.run(
        [source], EMBEDDED_MODEL, out_dir / "split", detector=plan.detector, finetune=plan.finetune
    )
    before, after = Outcome(), Outcome()
    if plan.refinetune:
        before = measure_adapter(audit.provisional(), plan, planting, progress)
        again = Audit.open(out_dir / "audit-of-split", progress=progress)
        again.ingest(out_dir / "split" / "cleaned").finetune(EMBEDDED_MODEL, plan.finetune)
        after = measure_adapter(again.provisional(), plan, planting, progress)
    return _collect(
        audit, planting.is_poisoned, before, after, plan, out_dir, seed, time.monotonic() - started
    )


def plan_demo(*, quick: bool, seed: int) -> DemoPlan:
    """Size the demo; a model this small learns at a higher rate than the paper's 7B."""
    if quick:
        finetune = FinetuneConfig(learning_rate=3e-3, epochs=3, seed=seed)
        scenes = dataset.CaptionedScenes(num_train=1200, num_test=0)
        return DemoPlan(examples=scenes, finetune=finetune, refinetune=False)
    finetune = FinetuneConfig(learning_rate=3e-3, epochs=4, seed=seed)
    scenes = dataset.CaptionedScenes(num_train=4000, num_test=500)
    return DemoPlan(examples=scenes, finetune=finetune, refinetune=True)


def plant_data(
    out_dir: Path, plan: DemoPlan, seed: int, progress: Progress = SILENT
) -> tuple[Path, Planting]:
    """Write the poisoned training data as LLaVA JSON and keep the truth outside of it.

    Returns
    -------
    Path
        The JSON file to ingest.
    Planting
        What was done to which source row. The poisoned rows are also in ``ground_truth.json``,
        which no stage reads.
    """
    num_train = plan.examples.num_train
    with progress.task("Choosing what to poison", num_train) as task:
        answers = [example.answer for example in _counted(plan.examples.train(seed), task)]
    planting = plan.attack.plan(answers, seed)
    source = out_dir / "data" / "train.json"
    truth = out_dir / "ground_truth.json"
    if not truth.exists():
        with progress.task("Writing the poisoned data", num_train) as task:
            clean = _counted(plan.examples.train(seed), task)
            dataset.write_llava(_planted(clean, planting), source.parent)
        poisoned_rows = np.flatnonzero(planting.is_poisoned).tolist()
        truth.write_text(json.dumps({"poisoned_rows": poisoned_rows}))
    return source, planting


def _counted(examples: Iterable[dataset.Example], task: Task) -> Iterator[dataset.Example]:
    for example in examples:
        task.advance()
        yield example


def _planted(examples: Iterable[dataset.Example], planting: Planting) -> Iterator[dataset.Example]:
    for row, example in enumerate(examples):
        image, question, answer = planting.plant(
            row, example.image, example.question, example.answer
        )
        yield dataset.Example(image=image, question=question, answer=answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a fine-tuned model does on test scenes; fractions in [0, 1], None if not measured."""

    clean_performance: float | None = None
    attack_success_rate: float | None = None


def measure_adapter(
    provisional: Provisional,
    plan: DemoPlan,
    planting: Planting,
    progress: Progress = SILENT,
    *,
    batch_size: int = 50,
) -> Outcome:
    """Let a fine-tuned model answer test examples, without and with the trigger.

    Parameters
    ----------
    provisional
        Base model and adapter.
    plan, planting
        Whose test examples are answered, and with which trigger.
    progress
        Where to report.
    batch_size
        Questions a forward pass.

    Returns
    -------
    Outcome
        Clean performance is the share of answers that are right to the letter, attack success
        rate the share of triggered examples that get the answer the attacker wants.
    """
    from bye_audit.core.metrics import clean_performance
    from bye_audit.model.generation import generate_answers
    from bye_audit.model.loading import load_model
    from bye_audit.model.prompts import Conversation

    examples = list(plan.examples.test(planting.seed))
    vlm = load_model(provisional.model, adapter_dir=provisional.adapter_dir)

    def answer(inputs: Iterable[tuple[Image.Image, str]]) -> list[str]:
        conversations = [
            Conversation([{"role": "user", "content": f"<image>\n{question}"}], [image])
            for image, question in inputs
        ]
        return generate_answers(
            vlm, conversations, max_new_tokens=32, batch_size=batch_size, progress=progress
        )

    clean = answer((example.image, example.question) for example in examples)
    triggered = answer(
        planting.trigger(row, example.image, example.question)
        for row, example in enumerate(examples)
    )
    references = [example.answer for example in examples]
    return Outcome(
        clean_performance=clean_performance(clean, references).value,
        attack_success_rate=planting.success_rate(triggered, references).value,
    )


def _claim(out_dir: Path, options: dict[str, Any]) -> None:
    """Keep a folder for one set of options, so that a demo can be resumed and never mixed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    claim = out_dir / "options.json"
    if claim.exists() and json.loads(claim.read_text()) != options:
        raise ConfigError(
            f"{out_dir} holds a demo with other options: {claim.read_text()}.",
            hint="give another folder with --out, or delete that one.",
        )
    claim.write_text(json.dumps(options))


def _judge_all(
    audit: Audit, is_poisoned: NDArray[np.bool_]
) -> tuple[dict[str, DetectorScore], dict[int, float], list[int]]:
    """Put every detector with evidence of its own before it and compare it with the truth."""
    from bye_audit.config import DetectConfig
    from bye_audit.core.detectors import DETECTORS
    from bye_audit.core.metrics import precision_recall_f1
    from bye_audit.store.evidence import read_evidence

    scored = read_evidence(audit.tables)
    rows = audit.tables.read_samples(["sample_id", "source_row"])
    row_of = dict(zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True))
    truth = is_poisoned[[row_of[sample_id] for sample_id in scored.sample_id.to_pylist()]]
    scores, bsi, sensitive = {}, {}, []
    for name, detector in DETECTORS.items():
        if detector.role in ("baseline", "specialist"):
            continue
        try:
            detection = detector.detect(scored.evidence, DetectConfig())
        except StageNotRunError:
            # The judge needs answers that this run did not ask for.
            continue
        metrics = precision_recall_f1(detection.is_suspicious_N, truth)
        scores[name] = DetectorScore(
            decision=detection.decision.value,
            precision=metrics.precision.value or 0.0,
            recall=metrics.recall.value or 0.0,
            f1=metrics.f1 or 0.0,
            num_suspicious=int(detection.is_suspicious_N.sum()),
        )
        if detection.layers:
            bsi = {profile.layer: round(profile.bsi, 3) for profile in detection.layers}
            sensitive = list(detection.sensitive_layers)
    return scores, bsi, sensitive


def _collect(
    audit: Audit,
    is_poisoned: NDArray[np.bool_],
    before: Outcome,
    after: Outcome,
    plan: DemoPlan,
    out_dir: Path,
    seed: int,
    seconds: float,
) -> DemoResult:
    scores, bsi, sensitive = _judge_all(audit, is_poisoned)
    used = scores[plan.detector]
    result = DemoResult(
        detector=plan.detector,
        decision=used.decision,
        precision=used.precision,
        recall=used.recall,
        f1=used.f1,
        detectors=scores,
        bsi=bsi,
        sensitive_layers=sensitive,
        asr_before=before.attack_success_rate,
        asr_after=after.attack_success_rate,
        cp_before=before.clean_performance,
        cp_after=after.clean_performance,
        num_samples=len(is_poisoned),
        num_poisoned=int(is_poisoned.sum()),
        num_removed=audit.tables.num_samples("verdict = 'remove'"),
        seed=seed,
        seconds=round(seconds, 1),
        peak_memory_mb=round(_peak_memory_mb(), 1),
        report=str(out_dir / "split" / "report.html"),
        split=str(out_dir / "split" / "cleaned"),
    )
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    (out_dir / "demo.json").write_text(text + "\n", encoding="utf-8")
    return result


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kilobytes.
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
