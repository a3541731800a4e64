"""One audit and its stages: each call does what is missing and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit.config import (
    DEFAULT_DETECTOR,
    DEFAULT_OUTPUTS,
    CanaryConfig,
    DetectConfig,
    FinetuneConfig,
    ScoreConfig,
)
from bye_audit.pipeline.provisional import resolve_model
from bye_audit.pipeline.questioning import QuestionedAudit
from bye_audit.pipeline.reporting import write_audit_report

if TYPE_CHECKING:
    from bye_audit.canary import CanaryPlan
    from bye_audit.ingest import Preview


class Audit(QuestionedAudit):
    """One audit directory and everything that can be done with it.

    What each stage gives back is kept on the object, under the stage's own name in the past tense.

    Parameters
    ----------
    uri
        The audit directory: one LanceDB database. It is made by the first ``ingest``.
    progress
        Where the stages say how far they are.

    Examples
    --------
    >>> from bye_audit import Audit
    >>> audit = Audit.open("audit")                              # doctest: +SKIP
    >>> audit.ingest("train.json").finetune("llava-hf/llava-1.5-7b-hf")          # doctest: +SKIP
    >>> audit.score().confirm().filter("cleaned").filtered.decision    # doctest: +SKIP
    'poison_suspected'
    """

    def preview(
        self,
        *sources: str | Path,
        source_format: str = "auto",
        image_root: str | Path | None = None,
    ) -> Iterator[Preview]:
        """Say what sources are recognised as, and read their first records; nothing is written.

        Parameters
        ----------
        sources, source_format, image_root
            As for :meth:`ingest`.
        """
        from bye_audit.ingest import preview_sources

        return preview_sources(sources, format=source_format, image_root=image_root)

    def ingest(
        self,
        *sources: str | Path,
        source_format: str = "auto",
        image_root: str | Path | None = None,
        split: str = "train",
    ) -> Audit:
        """Read source files into the tables; records that cannot be used go to quarantine.

        Parameters
        ----------
        sources
            Files or folders in a known format.
        source_format
            Name of the format, or ``auto`` to recognise it.
        image_root
            Folder that image paths are relative to; the source's own folder when None.
        split
            Name stored with each sample.

        Returns
        -------
        Audit
            This object, with ``ingested`` set.
        """
        from bye_audit.ingest import ingest_samples
        from bye_audit.store.tables import AuditTables

        self.ingested = ingest_samples(
            AuditTables.create(self.uri),
            [Path(source) for source in sources],
            format=source_format,
            image_root=None if image_root is None else Path(image_root),
            split=split,
            progress=self.progress,
        )
        return self

    def finetune(
        self,
        model: str | Path,
        config: FinetuneConfig | None = None,
        *,
        restart: bool = False,
        trust_remote_code: bool = False,
    ) -> Audit:
        """Train the provisional adapter on the suspect samples.

        Parameters
        ----------
        model
            Folder, hub id, or ``mini`` for the embedded model.
        config
            Settings of the training; the paper's when None.
        restart
            Begin again instead of going on with, or keeping, an earlier training.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Audit
            This object, with ``finetuned`` set.
        """
        from bye_audit.finetune import finetune_provisional

        self.finetuned = finetune_provisional(
            self.tables,
            resolve_model(model),
            config or FinetuneConfig(),
            restart=restart,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def plan(
        self,
        model: str | Path,
        config: FinetuneConfig | None = None,
        *,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> Audit:
        """Say what fine-tuning and scoring will take, and write nothing.

        Parameters
        ----------
        model, config, trust_remote_code
            As of ``finetune``; for memory and disk the model's config is enough.
        device
            ``cpu`` or ``cuda``; what a run would use here when None.

        Returns
        -------
        Audit
            This object, with ``planned`` set.
        """
        from bye_audit.planning import plan_audit

        self.planned = plan_audit(
            self.tables,
            resolve_model(model),
            config or FinetuneConfig(),
            device=device,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def score(
        self,
        model: str | Path | None = None,
        adapter_dir: str | Path | None = None,
        config: ScoreConfig | None = None,
        *,
        restart: bool = False,
        trust_remote_code: bool = False,
    ) -> Audit:
        """Measure every sample with the provisional model.

        Parameters
        ----------
        model, adapter_dir
            The provisional model; the one of the last ``finetune`` of this audit when None.
        config
            Settings of the scoring.
        restart
            Drop the scores of another model or adapter instead of refusing to mix them.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Audit
            This object, with ``scored`` set.

        Raises
        ------
        StageNotRunError
            If no provisional model was given and none was trained here.
        """
        from bye_audit.score import score_samples

        tables = self.tables
        provisional = self.provisional(model, adapter_dir)
        self.scored = score_samples(
            tables,
            provisional.model,
            provisional.adapter_dir,
            config or ScoreConfig(),
            restart=restart,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def profile(self, config: DetectConfig | None = None) -> Audit:
        """Measure how bimodal each layer's entropies are.

        Returns
        -------
        Audit
            This object, with ``profiles`` set.
        """
        from bye_audit.profiling import profile_stage

        self.profiles = profile_stage(self.tables, config or DetectConfig(), self.progress)
        return self

    def filter(
        self,
        out_dir: str | Path,
        *,
        detector: str = DEFAULT_DETECTOR,
        config: DetectConfig | None = None,
        formats: Sequence[str] = DEFAULT_OUTPUTS,
    ) -> Audit:
        """Decide about every sample and write the cleaned split with its provenance.

        Parameters
        ----------
        out_dir
            Folder for the cleaned split, the removed samples and ``provenance.json``.
        detector
            Name in :data:`bye_audit.core.detectors.DETECTORS`; the default, ``consensus``, needs
            ``confirm`` first, ``zip`` needs ``purify``.
        config
            Settings of the detection; the paper's when None.
        formats
            What to write the kept samples as, of :data:`bye_audit.config.OUTPUT_FORMATS`.

        Returns
        -------
        Audit
            This object, with ``filtered`` set.
        """
        from bye_audit.filter import filter_samples

        self.filtered = filter_samples(
            self.tables,
            Path(out_dir),
            detector=detector,
            config=config or DetectConfig(),
            formats=formats,
            progress=self.progress,
        )
        return self

    def report(
        self, out_path: str | Path, *, overlays: bool = True, trust_remote_code: bool = False
    ) -> Audit:
        """Write everything that was found as one HTML file that needs no network.

        Parameters
        ----------
        out_path
            The file to write.
        overlays
            Load the provisional model once more to draw where it looked.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Audit
            This object, with ``report_path`` set.

        Raises
        ------
        StageNotRunError
            If nothing was filtered yet.
        """
        self.report_path = write_audit_report(
            self.tables,
            self.provisional,
            Path(out_path),
            overlays=overlays,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def canary(
        self,
        config: CanaryConfig,
        *,
        model: str | Path | None = None,
        out_dir: str | Path | None = None,
        finetune: FinetuneConfig | Mapping[str, Any] | None = None,
        score: ScoreConfig | None = None,
        detect: DetectConfig | None = None,
        announce: Callable[[CanaryPlan], None] | None = None,
        trust_remote_code: bool = False,
    ) -> Audit:
        """Plant known poison in copies of this audit and measure which detector sees it.

        Parameters
        ----------
        config
            The attacks, the rates, and what counts as seen.
        model
            As of ``finetune``; that of the last ``finetune`` of this audit when None.
        out_dir
            Folder for the copies and the results; beside the audit when None. The audit itself is
            only read.
        finetune
            Settings of the trainings, whole or single ones by name; the rest as the last
            ``finetune`` of this audit had it.
        score, detect
            Settings of scoring and detection.
        announce
            Told what is going to be done, before anything is trained.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Audit
            This object, with ``canary_report`` set.

        Raises
        ------
        StageNotRunError
            If no model is given and none was trained here.
        """
        from bye_audit.canary import known_model, run_canary

        tables = self.tables
        self.canary_report = run_canary(
            tables,
            resolve_model(known_model(tables) if model is None else model),
            config,
            out_dir=None if out_dir is None else Path(out_dir),
            finetune=finetune,
            score=score,
            detect=detect,
            announce=announce,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def run(
        self,
        sources: Sequence[str | Path],
        model: str | Path,
        out_dir: str | Path,
        *,
        source_format: str = "auto",
        image_root: str | Path | None = None,
        split: str = "train",
        detector: str = DEFAULT_DETECTOR,
        finetune: FinetuneConfig | None = None,
        score: ScoreConfig | None = None,
        detect: DetectConfig | None = None,
        trust_remote_code: bool = False,
    ) -> Audit:
        """Do every stage that is not done yet and write split and report to ``out_dir``.

        Returns
        -------
        Audit
            This object, with the results of all stages set; the report is
            ``out_dir/report.html``.
        """
        self.ingest(*sources, source_format=source_format, image_root=image_root, split=split)
        self.finetune(model, finetune, trust_remote_code=trust_remote_code)
        self.score(config=score, trust_remote_code=trust_remote_code)
        self.profile(detect)
        if detector == "consensus":
            self.confirm(detect=detect, trust_remote_code=trust_remote_code)
        if detector == "zip":
            self.purify(trust_remote_code=trust_remote_code)
        self.filter(out_dir, detector=detector, config=detect)
        return self.report(Path(out_dir) / "report.html", trust_remote_code=trust_remote_code)
