"""The canary from plan to report.

Reads the user's audit and never writes to it; everything made goes to one folder of its own. Can be
killed at any moment: the same call goes on, with finished results as they are. A folder is kept for
one set of settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bye_audit.canary.copying import Truth, make_copy
from bye_audit.canary.judging import WordBefore, judge_copy
from bye_audit.canary.learning import Learning, measure_learning
from bye_audit.canary.preparing import (
    CanaryPlan,
    Cell,
    choose_cells,
    choose_folder,
    claim_folder,
    confirm_settings,
    finetune_settings,
    judged_with,
    read_result,
    write_result,
)
from bye_audit.canary.results import CanaryReport, CellResult
from bye_audit.canary.subjects import find_subjects
from bye_audit.config import CanaryConfig, DetectConfig, FinetuneConfig, ScoreConfig
from bye_audit.confirm import confirm_samples
from bye_audit.errors import InterruptedStageError, StorageError
from bye_audit.finetune import (
    FinetuneResult,
    finetune_provisional,
    portable_name,
    require_images,
)
from bye_audit.planning import plan_audit
from bye_audit.poison.planting import Planting
from bye_audit.progress import SILENT, Progress, Task
from bye_audit.score import score_samples
from bye_audit.store.locking import sole_writer
from bye_audit.store.tables import AuditTables
from bye_audit.store.whole_files import read_json, write_json

STAGE = "canary"
_LEARNING, _REPORT = "learning.json", "canary.json"

Announce = Callable[[CanaryPlan], None]


def run_canary(
    tables: AuditTables,
    model: str,
    config: CanaryConfig,
    *,
    out_dir: Path | None = None,
    finetune: FinetuneConfig | Mapping[str, Any] | None = None,
    score: ScoreConfig | None = None,
    detect: DetectConfig | None = None,
    trust_remote_code: bool = False,
    announce: Announce | None = None,
    progress: Progress = SILENT,
) -> CanaryReport:
    """Plant known poison in copies of an audit and measure who sees it.

    Parameters
    ----------
    tables
        The user's audit.
    model
        Folder or hub id of the base model.
    config
        What is planted, and what counts as seen.
    out_dir
        Gets the copies, the truths and the results; beside the audit when None.
    finetune
        Settings of the trainings, whole or single ones by name; the rest as the audit's last
        fine-tuning had it.
    score, detect
        Settings of scoring and detection.
    trust_remote_code
        Run code that comes with the model.
    announce
        Told what is going to be done, before anything is trained.
    progress
        Where to report.

    Returns
    -------
    CanaryReport
        Of the attacks and rates asked for; also in ``canary.json``.

    Raises
    ------
    ConfigError
        If an attack is not known, a rate poisons nothing or too much, or the folder is of another
        canary.
    TooFewSamplesError
        If too few samples can carry poison.
    InterruptedStageError
        On Ctrl-C; the same call goes on.
    """
    cells = choose_cells(config)
    require_images(tables)
    if "://" in tables.uri:
        raise StorageError(
            f"{tables.uri} is not on a local disk, where copies could share its images.",
            hint="Use a local audit directory for this.",
        )
    folder = choose_folder(tables, out_dir)
    detect = detect or DetectConfig()
    with sole_writer(str(folder), STAGE):
        try:
            settings = finetune_settings(tables, finetune)
            plan = _prepare(
                tables, model, config, cells, folder, settings, detect, trust_remote_code, progress
            )
            if announce is not None:
                announce(plan)
            work = _Work(
                tables=tables,
                plan=plan,
                config=config,
                score=score or ScoreConfig(),
                detect=detect,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
            report = work.run()
        except KeyboardInterrupt as interrupt:
            raise InterruptedStageError(
                "The canary was stopped; what it had finished is kept.",
                hint="Run the same command again: it goes on from there.",
            ) from interrupt
    write_json(folder / _REPORT, report.to_json())
    return report


def _prepare(
    tables: AuditTables,
    model: str,
    config: CanaryConfig,
    cells: tuple[Cell, ...],
    folder: Path,
    finetune: FinetuneConfig,
    detect: DetectConfig,
    trust_remote_code: bool,
    progress: Progress,
) -> CanaryPlan:
    subjects = find_subjects(tables, config, min_samples=detect.min_samples, progress=progress)
    judged = judged_with(tables, detect)
    todo = tuple(cell for cell in cells if read_result(folder / cell.name, judged) is None)
    for cell in todo:
        # What cannot be planted is better known before the first training than after the last.
        cell.plant(subjects, config)
    claim_folder(folder, tables, subjects, config, model, finetune)
    filtered = tables.latest_run("filter") if subjects.suspected_ids else None
    return CanaryPlan(
        out_dir=folder,
        model=model,
        finetune=finetune,
        subjects=subjects,
        suspected_by=None
        if filtered is None
        else str(filtered.record["provenance"]["detector"]["name"]),
        cells=cells,
        todo=todo,
        judged_with=judged,
        confirm=confirm_settings(tables),
        training=plan_audit(
            tables, model, finetune, trust_remote_code=trust_remote_code, progress=progress
        )
        if todo
        else None,
    )


@dataclass(kw_only=True)
class _Work:
    """One canary at work."""

    tables: AuditTables
    plan: CanaryPlan
    config: CanaryConfig
    score: ScoreConfig
    detect: DetectConfig
    trust_remote_code: bool
    progress: Progress

    def run(self) -> CanaryReport:
        """Do every cell that has no result yet."""
        judged = self.plan.judged_with
        before = WordBefore(self.tables, self.detect)
        results = []
        for cell in self.plan.cells:
            folder = self.plan.out_dir / cell.name
            result = read_result(folder, judged)
            if result is None:
                result = self._measure(cell, folder, before)
                write_result(folder, result, judged)
            results.append(result)
        subjects = self.plan.subjects
        return CanaryReport(
            out_dir=str(self.plan.out_dir),
            model=portable_name(self.plan.model),
            num_samples=subjects.num_samples,
            num_able=len(subjects.rows) + len(subjects.held_out_rows),
            num_held_out=len(subjects.held_out_rows),
            num_suspected=len(subjects.suspected_ids),
            suspected_by=self.plan.suspected_by,
            min_recall=self.config.min_recall,
            cells=tuple(results),
        )

    def _measure(self, cell: Cell, folder: Path, before: WordBefore) -> CellResult:
        number = self.plan.todo.index(cell) + 1
        label = f"{cell.attack} at {cell.rate:.3g} ({number}/{len(self.plan.todo)}): "
        progress = _Labelled(self.progress, label)
        planting = cell.plant(self.plan.subjects, self.config)
        copy = make_copy(self.tables, self.plan.subjects, planting, folder, progress)
        trained = finetune_provisional(
            copy,
            self.plan.model,
            self.plan.finetune,
            trust_remote_code=self.trust_remote_code,
            progress=progress,
        )
        score_samples(
            copy,
            self.plan.model,
            trained.adapter_dir,
            self.score,
            trust_remote_code=self.trust_remote_code,
            progress=progress,
        )
        confirm = self.plan.confirm
        if confirm is not None:
            confirm_samples(
                copy,
                self.plan.model,
                trained.adapter_dir,
                confirm,
                detect=self.detect,
                trust_remote_code=self.trust_remote_code,
                progress=progress,
            )
        learning = self._learning(planting, folder, trained, progress)
        truth = Truth.read(folder)
        return CellResult(
            attack=cell.attack,
            rate=cell.rate,
            num_samples=copy.num_samples(),
            num_planted=len(truth.planted_ids),
            num_decoys=len(truth.decoy_ids),
            num_spoilt=truth.num_spoilt,
            learning=learning,
            loss_warning=trained.warning,
            detectors=judge_copy(copy, truth, self.plan.subjects, before, self.detect, progress),
        )

    def _learning(
        self, planting: Planting, folder: Path, trained: FinetuneResult, progress: Progress
    ) -> Learning:
        """Measure once for each adapter whether the attack was learnt."""
        digest = trained.run.record["adapter_digest"]
        found = read_json(folder / _LEARNING)
        if found is not None and found.get("adapter_digest") == digest:
            return Learning.from_json(found["learning"])
        learning = measure_learning(
            self.tables,
            self.plan.subjects,
            planting,
            self.plan.model,
            trained.adapter_dir,
            trust_remote_code=self.trust_remote_code,
            progress=progress,
        )
        write_json(folder / _LEARNING, {"adapter_digest": digest, "learning": asdict(learning)})
        return learning


@dataclass(frozen=True)
class _Labelled:
    """Progress whose every task says which training it belongs to."""

    progress: Progress
    label: str

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "samples") -> Iterator[Task]:
        """Open a task under the label."""
        with self.progress.task(self.label + description, total, unit) as task:
            yield task
