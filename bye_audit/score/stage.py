"""Stage 3: how the provisional model attends to each image, and what it makes of each answer.

Reads ``messages`` and ``images``; adds ``score_status``, ``score_error``, ``score_run``,
``num_image_tokens``, ``entropy_NN``, ``image_mass_NN``, ``answer_logp`` and ``answer_logp_base`` to
``samples`` and appends to ``head_scores``. Commits as it goes; goes on where ``score_status`` is
null. A killed run may leave rows of its last commit twice in ``head_scores``: the later one counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit import schema
from bye_audit.config import ScoreConfig
from bye_audit.errors import (
    EmptySourceError,
    InterruptedStageError,
    ModelError,
    StaleStageError,
    TableError,
)
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import ScoreStatus
from bye_audit.score.columns import heads_table, samples_table
from bye_audit.store.tables import AuditTables, new_run_id, sql_text

if TYPE_CHECKING:
    from bye_audit.model.attention import ImageAttention
    from bye_audit.model.loading import VisionLanguageModel
    from bye_audit.model.prompts import Conversation
    from bye_audit.model.scoring import SampleScore

STAGE = "score"
_WINDOW = 256
# So many samples may fail before the first one succeeds.
_MOST_FAILURES = 500
_TO_DO = "score_status IS NULL"
_FAILED = f"score_status = '{ScoreStatus.ERROR}'"
_RESTART_HINT = (
    "Run `bye-audit score {uri} --restart` to drop the old scores, or give the old model."
)


@dataclass(slots=True)
class ScoreSummary:
    """What became of the samples this call looked at, and how all of them stand."""

    run_id: str
    num_ok: int = 0
    num_not_scorable: int = 0
    num_errors: int = 0
    seconds: float = 0.0
    totals: dict[str, int] = field(default_factory=dict)
    """Samples of the whole audit by status."""

    @property
    def num_done(self) -> int:
        """Samples this call looked at."""
        return self.num_ok + self.num_not_scorable + self.num_errors


def score_samples(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: ScoreConfig,
    *,
    restart: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> ScoreSummary:
    """Score every sample that has no score yet.

    Parameters
    ----------
    tables
        The audit.
    model
        Folder or hub id of the base model.
    adapter_dir
        The provisional adapter. None: the model as it is.
    config
        How to score.
    restart
        Drop all scores first.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    ScoreSummary
        Of this call; a call that finds nothing to do reads no image.

    Raises
    ------
    StaleStageError
        If scores of another model, adapter, precision or way of scoring are there.
    ModelError
        If the model fails on everything.
    InterruptedStageError
        On Ctrl-C, after what was done is committed.
    """
    if tables.num_samples() == 0:
        raise EmptySourceError(
            f"{tables.uri} has no samples to score.",
            hint=f"Run `bye-audit ingest {tables.uri} SOURCE...` first.",
        )
    from bye_audit.model.loading import load_model

    started = time.monotonic()
    if restart:
        _drop_scores(tables)
    vlm = load_model(model, adapter_dir=adapter_dir, trust_remote_code=trust_remote_code)
    run_id = _claim_columns(tables, vlm, config)
    where = f"{_TO_DO} OR {_FAILED}" if config.retry_errors else _TO_DO
    num_to_do = tables.num_samples(where)
    summary = ScoreSummary(run_id)
    if num_to_do:
        _score_all(tables, vlm, config, where, summary, progress, num_to_do)
    summary.seconds = time.monotonic() - started
    summary.totals = {
        str(status): tables.num_samples(f"score_status = '{status}'") for status in ScoreStatus
    }
    if num_to_do or tables.latest_run(STAGE) is None:
        tables.record_run(STAGE, _record(vlm, config, summary, tables), run_id)
    return summary


def attention_maps(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    sample_ids: Sequence[str],
    layers: Sequence[int],
    *,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> dict[str, ImageAttention]:
    """Where the first answer token of some samples looks, for the report's overlays.

    Parameters
    ----------
    tables
        The audit.
    model, adapter_dir
        The provisional model.
    sample_ids
        Samples to look at; those that cannot be encoded are missing from the result.
    layers
        Decoder layers.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    dict[str, ImageAttention]
        By sample: shares of the image's attention, (layers, image tokens), and the tokens' grid.
        Nothing is stored.
    """
    from bye_audit.model.attention import image_attention
    from bye_audit.model.loading import load_model
    from bye_audit.model.prompts import ConversationError, decode_conversation

    chosen = ", ".join(sql_text(sample_id) for sample_id in sample_ids)
    if not chosen or not layers:
        return {}
    rows = tables.read_samples(
        ["sample_id", "messages", "images"], f"sample_id IN ({chosen})"
    ).to_pylist()
    vlm = load_model(model, adapter_dir=adapter_dir, trust_remote_code=trust_remote_code)
    data = tables.load_images([digest for row in rows for digest in row["images"]])
    maps: dict[str, ImageAttention] = {}
    with progress.task("Drawing attention", len(rows)) as task:
        for row in rows:
            task.advance()
            try:
                conversation = decode_conversation(row, data)
                if conversation.images:
                    found = image_attention(vlm, [conversation], layers)
                    maps[row["sample_id"]] = found[0]
            except ConversationError:
                continue
    return maps


def _score_all(
    tables: AuditTables,
    vlm: VisionLanguageModel,
    config: ScoreConfig,
    where: str,
    summary: ScoreSummary,
    progress: Progress,
    num_to_do: int,
) -> None:
    from bye_audit.model.scoring import SampleScorer

    ledger = _Ledger(tables, vlm, summary)
    committed = time.monotonic()
    with SampleScorer(vlm, config) as scorer, progress.task("Scoring", num_to_do) as task:
        try:
            for rows in _windows(tables, where):
                for scored in _score_window(tables, scorer, rows):
                    ledger.add(scored)
                    task.advance(len(scored), f"{summary.num_errors} failed")
                    # A model that can score nothing must not mark a whole dataset as broken.
                    ledger.refuse_all_failing()
                    if time.monotonic() - committed >= config.commit_seconds:
                        ledger.commit()
                        committed = time.monotonic()
            ledger.commit()
        except KeyboardInterrupt as error:
            ledger.commit()
            raise InterruptedStageError(
                f"Scoring was stopped after {summary.num_done} of {num_to_do} samples.",
                hint="Run the same command again: it goes on with the others.",
            ) from error


def _windows(tables: AuditTables, where: str) -> Iterator[list[dict[str, Any]]]:
    for batch in tables.scan_samples(["sample_id", "messages", "images"], where, _WINDOW):
        yield batch.to_pylist()


def _score_window(
    tables: AuditTables, scorer: Any, rows: list[dict[str, Any]]
) -> Iterator[list[SampleScore]]:
    """Score one stretch of the table; its images are in memory together, no others."""
    from bye_audit.model.prompts import ConversationError, decode_conversation
    from bye_audit.model.scoring import SampleScore

    data = tables.load_images([digest for row in rows for digest in row["images"]])
    ready: dict[str, Conversation] = {}
    aside: list[SampleScore] = []
    for row in rows:
        sample_id = row["sample_id"]
        if not row["images"]:
            aside.append(SampleScore(sample_id, ScoreStatus.NOT_SCORABLE, "no image"))
            continue
        try:
            ready[sample_id] = decode_conversation(row, data)
        except ConversationError as error:
            aside.append(SampleScore(sample_id, ScoreStatus.ERROR, str(error)))
    if aside:
        yield aside
    yield from scorer.score(ready)


class _Ledger:
    """Scores waiting to be committed."""

    def __init__(
        self, tables: AuditTables, vlm: VisionLanguageModel, summary: ScoreSummary
    ) -> None:
        self._tables = tables
        self._vlm = vlm
        self._summary = summary
        self._waiting: list[SampleScore] = []
        self._has_committed = False

    def add(self, scored: list[SampleScore]) -> None:
        """Take scores and count them."""
        self._waiting += scored
        for score in scored:
            if score.status == ScoreStatus.OK:
                self._summary.num_ok += 1
            elif score.status == ScoreStatus.ERROR:
                self._summary.num_errors += 1
            else:
                self._summary.num_not_scorable += 1

    def refuse_all_failing(self) -> None:
        """Stop if the first dozens of samples failed, every one."""
        if (
            self._summary.num_ok
            or self._has_committed
            or self._summary.num_errors <= _MOST_FAILURES
        ):
            return
        reason = next(s.error for s in self._waiting if s.status == ScoreStatus.ERROR)
        raise ModelError(
            f"{self._vlm.name} failed on all of the first {self._summary.num_errors} samples: "
            f"{reason}",
            hint="Nothing was stored. Try another model or a smaller --batch-size.",
        )

    def commit(self) -> None:
        """Write what waits: heads first, since the status is what says that a sample is done."""
        if not self._waiting:
            return
        num_layers = self._vlm.num_layers
        scored = [score for score in self._waiting if score.status == ScoreStatus.OK]
        self._tables.append_head_scores(heads_table(scored, self._summary.run_id))
        self._tables.update_samples(samples_table(self._waiting, self._summary.run_id, num_layers))
        self._waiting = []
        self._has_committed = True


def _identity(vlm: VisionLanguageModel, config: ScoreConfig) -> dict[str, str]:
    """Say what must agree before two samples' scores may be compared."""
    return {
        "model": vlm.name,
        "model_digest": vlm.digest,
        "adapter_digest": vlm.adapter_digest or "none",
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "plausibility": str(config.plausibility).lower(),
    }


def _claim_columns(tables: AuditTables, vlm: VisionLanguageModel, config: ScoreConfig) -> str:
    """Add the score columns, or check that those there are this model's; give their run."""
    identity = _identity(vlm, config)
    first = schema.entropy_column(0)
    if first in tables.sample_columns():
        stored = tables.column_metadata(first)
        differing = [key for key, value in identity.items() if stored.get(key) != value]
        if differing:
            details = "; ".join(f"{k} {stored.get(k)}, now {identity[k]}" for k in differing)
            raise StaleStageError(
                f"{tables.uri} has scores made in another way ({details}).",
                hint=_RESTART_HINT.format(uri=tables.uri),
            )
        run_id = stored.get("run")
        if run_id is None:
            raise TableError(
                f"The score columns of {tables.uri} do not say which run made them.",
                hint=_RESTART_HINT.format(uri=tables.uri),
            )
    else:
        run_id = new_run_id(STAGE)
    tables.add_sample_columns(schema.score_fields(vlm.num_layers, {**identity, "run": run_id}))
    return run_id


def _drop_scores(tables: AuditTables) -> None:
    names = [
        name
        for name in tables.sample_columns()
        if name in (*schema.SCORE_COLUMNS, "num_image_tokens", "answer_logp", "answer_logp_base")
        or name.startswith((schema.ENTROPY_PREFIX, schema.IMAGE_MASS_PREFIX))
        # A verdict on scores that are gone would be believed.
        or name in schema.VERDICT_COLUMNS
    ]
    tables.drop_sample_columns(names)


def _record(
    vlm: VisionLanguageModel, config: ScoreConfig, summary: ScoreSummary, tables: AuditTables
) -> dict[str, Any]:
    return {
        **_identity(vlm, config),
        "revision": vlm.revision,
        "device": vlm.device.type,
        "num_layers": vlm.num_layers,
        "num_heads": vlm.num_heads,
        "num_ok": summary.num_ok,
        "num_not_scorable": summary.num_not_scorable,
        "num_errors": summary.num_errors,
        "totals": summary.totals,
        "seconds": round(summary.seconds, 3),
        "table_version": tables.version(),
    }
