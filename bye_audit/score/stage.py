"""Stage 3: how the provisional model attends to each image, and what it makes of each answer.

Reads ``messages`` and ``images``; adds ``score_status``, ``score_error``, ``score_run``,
``num_image_tokens``, ``entropy_NN``, ``image_mass_NN`` and the log-likelihoods of the answers to
``samples`` and appends to ``head_scores``. Commits as it goes; goes on where ``score_status`` is
null. A killed run may leave rows of its last commit twice in ``head_scores``: the later one counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit import schema
from bye_audit.config import ScoreConfig
from bye_audit.errors import (
    ConfigError,
    EmptySourceError,
    InterruptedStageError,
    StaleStageError,
    TableError,
)
from bye_audit.progress import SILENT, Progress
from bye_audit.schema import ScoreStatus
from bye_audit.score.ledger import Ledger, ScoreSummary
from bye_audit.score.work import WindowReader, answers_wanted, plan_windows
from bye_audit.score.workers import choose_num_workers, read_windows, set_threads
from bye_audit.store.tables import AuditTables, new_run_id, sql_text
from bye_audit.store.windows import Rows

if TYPE_CHECKING:
    from bye_audit.model.identity import ModelIdentity
    from bye_audit.model.loading import VisionLanguageModel
    from bye_audit.model.maps import ImageAttention
    from bye_audit.model.samples import SampleScore

    Engine = Callable[[list[Rows], ScoreSummary], Generator[list[SampleScore]]]

STAGE = "score"
_RESTART_HINT = (
    "Run `bye-audit score {uri} --restart` to drop the old scores, or give the old model."
)


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
    MissingDependencyError
        If the engine is Ray and Ray is not installed.
    InterruptedStageError
        On Ctrl-C, after what was done is committed.
    """
    if tables.num_samples() == 0:
        raise EmptySourceError(
            f"{tables.uri} has no samples to score.",
            hint=f"Run `bye-audit ingest {tables.uri} SOURCE...` first.",
        )
    started = time.monotonic()
    identity, engine = _choose_engine(
        tables, model, adapter_dir, config, trust_remote_code, progress
    )
    _require_layers(identity, config)
    if restart:
        # Only now: a slip of the pen in the command must not cost the scores there are.
        _drop_scores(tables)
    run_id = _claim_columns(tables, identity, config)
    windows = plan_windows(tables, retries_errors=config.retry_errors)
    summary = ScoreSummary(run_id)
    if windows:
        ledger = Ledger(tables, summary, identity.num_layers, identity.name, config.commit_seconds)
        _score_all(engine, ledger, windows, summary, progress)
    summary.seconds = time.monotonic() - started
    summary.totals = {
        str(status): tables.num_samples(f"score_status = '{status}'") for status in ScoreStatus
    }
    if windows or tables.latest_run(STAGE) is None:
        tables.record_run(STAGE, _record(identity, config, summary, tables), run_id)
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
    from bye_audit.model.loading import load_model
    from bye_audit.model.maps import image_attention
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


def _choose_engine(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: ScoreConfig,
    trust_remote_code: bool,
    progress: Progress,
) -> tuple[ModelIdentity, Engine]:
    """Name the model, and give what scores windows with it."""
    if config.engine == "ray":
        from bye_audit.score.ray_engine import make_assignment, score_on_ray

        assignment = make_assignment(
            tables, model, adapter_dir, config, trust_remote_code=trust_remote_code
        )
        return assignment.identity, partial(score_on_ray, assignment)
    from bye_audit.model.loading import load_model

    vlm = load_model(
        model,
        adapter_dir=adapter_dir,
        trust_remote_code=trust_remote_code,
        device=config.device,
    )
    return vlm.identity, partial(_score_here, tables, vlm, config, progress)


def _require_layers(model: ModelIdentity, config: ScoreConfig) -> None:
    if config.layers is not None and max(config.layers) >= model.num_layers:
        raise ConfigError(
            f"{model.name} has no layer {max(config.layers)}: it has 0 to {model.num_layers - 1}.",
            hint="Choose --layers among these.",
        )


def _score_all(
    engine: Engine,
    ledger: Ledger,
    windows: list[Rows],
    summary: ScoreSummary,
    progress: Progress,
) -> None:
    num_to_do = sum(map(len, windows))
    with closing(engine(windows, summary)) as scores:
        try:
            with progress.task("Scoring", num_to_do) as task:
                for scored in scores:
                    ledger.add(scored)
                    task.advance(len(scored), f"{summary.num_errors} failed")
            ledger.commit()
        except KeyboardInterrupt as error:
            ledger.commit()
            raise InterruptedStageError(
                f"Scoring was stopped after {summary.num_done} of {num_to_do} samples.",
                hint="Run the same command again: it goes on with the others.",
            ) from error


def _score_here(
    tables: AuditTables,
    vlm: VisionLanguageModel,
    config: ScoreConfig,
    progress: Progress,
    windows: list[Rows],
    summary: ScoreSummary,
) -> Generator[list[SampleScore]]:
    """Score windows one after the other, while the next ones are being read."""
    from bye_audit.model.check import check_scorer
    from bye_audit.model.scoring import SampleScorer

    set_threads()
    reader = WindowReader(tables, tables.version(), vlm.encoder, answers_wanted(config))
    num_workers = choose_num_workers(len(windows), config.num_workers)
    with (
        SampleScorer(vlm, config) as scorer,
        closing(read_windows(reader, windows, num_workers)) as prepared,
    ):
        if config.check:
            few = _pick_few(windows)
            with progress.task("Checking", len(few)) as task:
                check = check_scorer(vlm, scorer, reader.read(few))
                task.advance(len(few), check.verdict)
            summary.check = str(check)
        for samples in prepared:
            yield from scorer.score(samples)
            summary.model_seconds = scorer.model_seconds
        summary.reuses_prefixes = scorer.reuses_prefixes


def _pick_few(windows: list[Rows]) -> list[int]:
    """Row numbers of the first two samples, which may share an image, and of the last two."""
    return list(dict.fromkeys([*windows[0][:2].tolist(), *windows[-1][-2:].tolist()]))


def _identity(model: ModelIdentity, config: ScoreConfig) -> dict[str, str]:
    """Say what must agree before two samples' scores may be compared."""
    return {
        "model": model.name,
        "model_digest": model.digest,
        "adapter_digest": model.adapter_digest or "none",
        "dtype": model.dtype,
        "attention": model.attention,
        "layers": "all" if config.layers is None else ",".join(map(str, config.layers)),
        "turns": config.turns,
        "plausibility": str(config.plausibility).lower(),
    }


def _claim_columns(tables: AuditTables, model: ModelIdentity, config: ScoreConfig) -> str:
    """Add the score columns, or check that those there are this model's; give their run."""
    identity = _identity(model, config)
    first = schema.entropy_column(0)
    if first in tables.sample_columns():
        stored = tables.column_metadata(first)
        differing = [key for key, value in identity.items() if stored.get(key) != value]
        if differing and not tables.num_samples("score_status IS NOT NULL"):
            # Claimed by a call that scored nothing.
            _drop_scores(tables)
            return _claim_columns(tables, model, config)
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
    tables.add_sample_columns(schema.score_fields(model.num_layers, {**identity, "run": run_id}))
    return run_id


def _drop_scores(tables: AuditTables) -> None:
    names = [
        name
        for name in tables.sample_columns()
        if name in (*schema.SCORE_COLUMNS, "num_image_tokens", *schema.ANSWER_LOGP_COLUMNS)
        or name.startswith((schema.ENTROPY_PREFIX, schema.IMAGE_MASS_PREFIX))
        # A verdict on scores that are gone would be believed.
        or name in (*schema.INTERVENTION_COLUMNS, *schema.PURIFIED_COLUMNS, *schema.VERDICT_COLUMNS)
    ]
    tables.drop_sample_columns(names)


def _record(
    model: ModelIdentity, config: ScoreConfig, summary: ScoreSummary, tables: AuditTables
) -> dict[str, Any]:
    return {
        **_identity(model, config),
        "revision": model.revision,
        "engine": config.engine,
        "device": model.device,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "reuses_prefixes": summary.reuses_prefixes,
        "check": summary.check,
        "num_ok": summary.num_ok,
        "num_not_scorable": summary.num_not_scorable,
        "num_errors": summary.num_errors,
        "totals": summary.totals,
        "seconds": round(summary.seconds, 3),
        "model_seconds": round(summary.model_seconds, 3),
        "table_version": tables.version(),
    }
