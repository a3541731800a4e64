"""Between score and filter: every scored sample is asked again, with its first image purified.

Reads ``messages``, ``images`` and the columns ``score`` wrote; writes ``purified_answer_logp`` and
its like, ``purified_entropy_shift`` and ``purify_run``, and a row in ``runs``. Commits as it goes;
goes on where ``purify_run`` is null.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.config import PurifyConfig, ScoreConfig
from bye_audit.errors import (
    InterruptedStageError,
    ModelError,
    StageNotRunError,
    StaleStageError,
)
from bye_audit.progress import SILENT, Progress
from bye_audit.purify.purifiers import PURIFIERS, Purifier
from bye_audit.purify.questions import PurifiedReader
from bye_audit.schema import ScoreStatus
from bye_audit.store.columns import nulls_for_nan
from bye_audit.store.evidence import refuse_other_model, require_scores
from bye_audit.store.tables import new_run_id
from bye_audit.store.windows import Rows, plan_windows

if TYPE_CHECKING:
    from bye_audit.model.loading import VisionLanguageModel
    from bye_audit.model.samples import SampleScore
    from bye_audit.store.tables import AuditTables

STAGE = "purify"
_WINDOW = 64
# So many samples may fail before the first one succeeds.
_MOST_FAILURES = 100


@dataclass(kw_only=True, slots=True)
class PurifyResult:
    """What became of the samples that were asked again.

    Parameters
    ----------
    run_id
        Of the row in ``runs``.
    purifier
        Its name.
    num_ok, num_failed
        Samples this call asked, and those it could not ask.
    num_purified
        Scored samples of the whole audit that have been asked.
    mean_entropy_shift
        What purifying adds to the attention entropy on average, in nats; None where nothing was
        measured.
    seconds
        Time this call took.
    """

    run_id: str
    purifier: str
    num_ok: int = 0
    num_failed: int = 0
    num_purified: int = 0
    mean_entropy_shift: float | None = None
    seconds: float = 0.0


def purify_samples(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: PurifyConfig | None = None,
    *,
    restart: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> PurifyResult:
    """Ask the provisional model and its base about every scored sample, its image purified.

    Parameters
    ----------
    tables
        After ``score`` with likelihoods.
    model, adapter_dir
        The provisional model that scored.
    config
        How to purify.
    restart
        Drop what another purifier has left first.
    trust_remote_code
        Run code that comes with the model.
    progress
        Where to report.

    Returns
    -------
    PurifyResult
        Of this call; a call that finds nothing to do reads no image.

    Raises
    ------
    StageNotRunError
        If scores or likelihoods are missing.
    StaleStageError
        If another model has scored, or another purifier's columns are there.
    MissingDependencyError
        If the purifier's package is not installed.
    ModelError
        If the purifier cannot be opened, or the model fails on everything.
    InterruptedStageError
        On Ctrl-C, after what was done is committed.
    """
    from bye_audit.model.loading import load_model

    started = time.monotonic()
    config = config or PurifyConfig()
    _require_likelihoods(tables)
    purifier = PURIFIERS[config.purifier](config)
    vlm = load_model(
        model, adapter_dir=adapter_dir, trust_remote_code=trust_remote_code, device=config.device
    )
    refuse_other_model(
        tables,
        model_digest=vlm.digest,
        adapter_digest=vlm.adapter_digest or "none",
        dtype=vlm.identity.dtype,
    )
    with tables.sole_writer(STAGE):
        if restart:
            # Only now: a slip of the pen in the command must not cost what there is.
            tables.drop_sample_columns(schema.PURIFIED_COLUMNS)
        run_id = _claim_columns(tables, purifier)
        result = PurifyResult(run_id=run_id, purifier=purifier.name)
        windows = plan_windows(tables, ["score_status", "purify_run"], _is_to_do, _WINDOW)
        if windows:
            _ask_all(tables, vlm, purifier, config, windows, result, progress)
    _summarise(tables, result)
    result.seconds = round(time.monotonic() - started, 3)
    if windows or tables.latest_run(STAGE) is None:
        record = {**asdict(result), "config": asdict(config), **_settings(tables, purifier)}
        # Where a model lies is nobody's business; its digest is among the settings.
        record["config"].pop("purifier_model")
        tables.record_run(STAGE, record, run_id)
    return result


def _require_likelihoods(tables: AuditTables) -> None:
    require_scores(tables)
    scored = f"score_status = '{ScoreStatus.OK}'"
    is_there = "answer_logp_first" in tables.sample_columns() and (
        not tables.num_samples(scored) or tables.num_samples("answer_logp_first IS NOT NULL")
    )
    if not is_there:
        raise StageNotRunError(
            f"{tables.uri} was scored without the likelihood of each answer's first token, so "
            "there is nothing to compare with.",
            hint=f"Run `bye-audit score {tables.uri} --restart` with plausibility switched on.",
        )


def _settings(tables: AuditTables, purifier: Purifier) -> dict[str, str]:
    """Say what must agree before two samples' values may be compared."""
    scored_by = tables.column_metadata(schema.entropy_column(0)).get("run", "unknown")
    return {"purifier": purifier.name, **purifier.settings, "scores": scored_by}


def _claim_columns(tables: AuditTables, purifier: Purifier) -> str:
    """Add the columns, or check that those there are this purifier's; give their run."""
    settings = _settings(tables, purifier)
    first = schema.PURIFIED_COLUMNS[0]
    # A call that was cut short may have added some of them; adding skips those there are.
    if first not in tables.sample_columns():
        run_id = new_run_id(STAGE)
    else:
        stored = tables.column_metadata(first)
        run_id = stored.pop("run", "")
        differing = sorted(k for k in stored | settings if stored.get(k) != settings.get(k))
        if differing or not run_id:
            details = "; ".join(
                f"{key} {stored.get(key, 'none')}, now {settings.get(key, 'none')}"
                for key in differing
            )
            raise StaleStageError(
                f"{tables.uri} has answers to images purified in another way ({details}).",
                hint=f"Run `bye-audit purify {tables.uri} --restart` to drop them, or purify as "
                "before.",
            )
    tables.add_sample_columns(schema.purified_fields({**settings, "run": run_id}))
    return run_id


def _is_to_do(batch: pa.RecordBatch) -> pa.BooleanArray:
    is_scored = pc.fill_null(pc.equal(batch["score_status"], str(ScoreStatus.OK)), fill_value=False)
    return pc.and_(is_scored, pc.is_null(batch["purify_run"]))


def _ask_all(
    tables: AuditTables,
    vlm: VisionLanguageModel,
    purifier: Purifier,
    config: PurifyConfig,
    windows: list[Rows],
    result: PurifyResult,
    progress: Progress,
) -> None:
    from bye_audit.model.scoring import SampleScorer

    layers = tables.column_metadata(schema.entropy_column(0)).get("layers", "all")
    scoring = ScoreConfig(
        layers=None if layers == "all" else tuple(map(int, layers.split(","))),
        batch_tokens=config.batch_tokens,
    )
    reader = PurifiedReader(tables, tables.version(), vlm.encoder, purifier)
    waiting: list[pa.Table] = []

    def commit() -> None:
        if waiting:
            tables.update_samples(pa.concat_tables(waiting))
            waiting.clear()

    num_to_do = sum(map(len, windows))
    committed = time.monotonic()
    try:
        with (
            SampleScorer(vlm, scoring) as scorer,
            progress.task(f"Purifying ({purifier.name})", num_to_do) as task,
        ):
            for window in windows:
                questions = reader.read(window)
                for scores in scorer.score(questions.samples):
                    waiting.append(_as_columns(scores, questions.entropy_of, result))
                    task.advance(len(scores), f"{result.num_failed} failed")
                if time.monotonic() - committed >= config.commit_seconds:
                    commit()
                    committed = time.monotonic()
        commit()
    except KeyboardInterrupt as interrupt:
        commit()
        raise InterruptedStageError(
            f"Purifying was stopped after {result.num_ok + result.num_failed} of {num_to_do} "
            "samples.",
            hint="Run the same command again: it goes on with the others.",
        ) from interrupt


def _as_columns(
    scores: list[SampleScore], entropy_of: Mapping[str, NDArray[np.float64]], result: PurifyResult
) -> pa.Table:
    """Lay answers out as an update of ``samples``, and count them; NaN becomes null."""
    is_ok = [score.status == ScoreStatus.OK for score in scores]
    result.num_ok += sum(is_ok)
    result.num_failed += len(is_ok) - sum(is_ok)
    if not result.num_ok and result.num_failed > _MOST_FAILURES:
        raise ModelError(
            f"The model failed on all of the first {result.num_failed} purified samples: "
            f"{scores[0].error}",
            hint="Try another --purifier or a smaller --batch-tokens.",
        )
    columns = {
        name: [getattr(score, name.removeprefix("purified_")) for score in scores]
        for name in schema.PURIFIED_LOGP_COLUMNS
    }
    columns["purified_entropy_shift"] = [
        np.nan if score.entropy_L is None else mean_shift(entropy_of[score.sample_id], score)
        for score in scores
    ]
    return pa.table(
        {
            "sample_id": pa.array([score.sample_id for score in scores], pa.string()),
            **{name: nulls_for_nan(values) for name, values in columns.items()},
            "purify_run": pa.array([result.run_id] * len(scores), pa.string()),
        }
    )


def mean_shift(before_L: NDArray[np.float64], after: SampleScore) -> float:
    """Mean over the layers of what was added to the entropy; NaN where no layer has both."""
    shift_L = np.asarray(after.entropy_L) - before_L
    is_known = np.isfinite(shift_L)
    return float(shift_L[is_known].mean()) if is_known.any() else float("nan")


def _summarise(tables: AuditTables, result: PurifyResult) -> None:
    result.num_purified = tables.num_samples("purified_answer_logp_first IS NOT NULL")
    shifts = tables.read_samples(["purified_entropy_shift"])["purified_entropy_shift"]
    mean = pc.mean(shifts).as_py()
    result.mean_entropy_shift = None if mean is None else round(mean, 4)
