"""Scoring on Ray Data: one provisional model a worker, on one machine or many.

Only the process that called commits, as in the local engine, so the table stays the checkpoint:
whatever dies, the same command again scores the rows that have no score yet.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bye_audit.config import ScoreConfig
from bye_audit.errors import ConfigError, MissingDependencyError, ModelError
from bye_audit.score.ledger import ScoreSummary
from bye_audit.score.ray_worker import ROWS, Assignment, ScoreWorker, open_reply
from bye_audit.score.work import WINDOW
from bye_audit.score.workers import count_cores
from bye_audit.store.tables import AuditTables
from bye_audit.store.windows import Rows

if TYPE_CHECKING:
    from bye_audit.model.samples import SampleScore

# A user who wants otherwise sets these.
_ANY_RAY = {
    # Whatever it has to say of a worker that died it would print on stdout.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
# Of a Ray that this process starts for itself.
_OWN_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name: without clusters, everything listens on the loopback address only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers are what the user waits for: no less urgent than the local engine would be.
    "RAY_worker_niceness": "0",
}
_OBJECT_STORE_BYTES = 256 << 20
# Windows a worker gets at the least where there is little to do, so that all end together.
_WINDOWS_PER_WORKER = 4
# A window that takes its process down every time would otherwise be tried for ever.
_MOST_RETRIES = 3


def require_ray() -> None:
    """Refuse to begin without Ray Data.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError(
            "Scoring with --engine ray needs Ray, which is not installed.",
            hint="pip install 'bye-audit[ray]', or leave out --engine to score in this process.",
        )


def make_assignment(
    tables: AuditTables,
    model: str,
    adapter_dir: Path | None,
    config: ScoreConfig,
    *,
    trust_remote_code: bool,
) -> Assignment:
    """Say what all workers do; reads the model's files but opens no weights.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    ModelError
        If there is no such model or adapter.
    """
    require_ray()
    from bye_audit.model.identity import identify_model

    identity = identify_model(
        model,
        adapter_dir=adapter_dir,
        trust_remote_code=trust_remote_code,
        device="cuda" if _gpus_per_worker(config) else "cpu",
    )
    return Assignment(
        # Workers have a working directory of their own.
        tables=tables if "://" in tables.uri else AuditTables(str(Path(tables.uri).resolve())),
        version=tables.version(),
        model=str(Path(model).resolve()) if Path(model).is_dir() else model,
        adapter_dir=None if adapter_dir is None else adapter_dir.resolve(),
        trust_remote_code=trust_remote_code,
        identity=identity,
        config=config,
    )


def score_on_ray(
    assignment: Assignment,
    windows: list[Rows],
    summary: ScoreSummary,
    worker: type[ScoreWorker] = ScoreWorker,
) -> Generator[list[SampleScore]]:
    """Score windows on Ray's workers, in the order in which they are done.

    Parameters
    ----------
    assignment
        What the workers do.
    windows
        Row numbers; cut smaller where they are too few for the workers.
    summary
        Where the seconds spent in models are added.
    worker
        What each process of Ray runs.

    Raises
    ------
    ConfigError
        If there is no such cluster, or too little of it.
    ModelError
        If a worker dies again and again over the same samples.
    """
    config, gpus = assignment.config, _gpus_per_worker(assignment.config)
    assignment = replace(assignment, version=assignment.tables.version())
    with _ray_session(config) as ray:
        num_workers = _choose_num_workers(ray.cluster_resources(), config, gpus)
        blocks = _cut(windows, num_workers)
        scored = _plan(ray, blocks, assignment, worker, min(num_workers, len(blocks)), gpus)
        replies = iter(
            scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        )
        try:
            for reply in replies:
                for scores, seconds in open_reply(reply):
                    summary.model_seconds += seconds
                    yield scores
        except ray.exceptions.RayActorError as error:
            raise ModelError(
                f"A Ray worker died {_MOST_RETRIES + 1} times over the same samples.",
                hint="Its logs are below /tmp/ray. Most often memory runs out: lower --ray-workers "
                "or --batch-tokens. The same command again goes on with what is left.",
            ) from error


def _plan(
    ray: Any,
    windows: list[Rows],
    assignment: Assignment,
    worker: type[ScoreWorker],
    num_workers: int,
    gpus: float,
) -> Any:
    """Lay the job out as a Ray dataset of one window a block; nothing runs yet."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        # Up to Ray 2.63 there is no other way to bound how often a window is tried.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        return ray.data.from_arrow(
            [pa.table({ROWS: pa.array([rows], pa.list_(pa.int64()))}) for rows in windows]
        ).map_batches(
            worker,
            fn_constructor_args=(assignment,),
            batch_size=None,
            batch_format="pyarrow",
            # One window is read while the other is being scored.
            compute=ray.data.ActorPoolStrategy(
                size=num_workers,
                max_tasks_in_flight_per_actor=2,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            num_cpus=1,
            num_gpus=gpus or None,
            max_task_retries=_MOST_RETRIES,
        )


def _gpus_per_worker(config: ScoreConfig) -> float:
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    import torch

    # Of a cluster the machine that commits says nothing: it need not have a GPU.
    return 1.0 if config.ray_address or torch.cuda.is_available() else 0.0


def _choose_num_workers(resources: dict[str, float], config: ScoreConfig, gpus: float) -> int:
    """Take as many workers as were asked for, or as there is room for."""
    room = int(resources.get("CPU", 0))
    if gpus:
        room = min(room, int(resources.get("GPU", 0) / gpus))
    wanted = config.ray_workers or max(room, 1)
    if wanted > room:
        raise ConfigError(
            f"Ray has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs: "
            f"room for {room} workers of 1 core and {gpus:g} GPUs, not for {wanted}.",
            hint="Lower --ray-workers or --gpus-per-worker, or add machines.",
        )
    return wanted


def _cut(windows: list[Rows], num_workers: int) -> list[Rows]:
    rows = np.concatenate(windows)
    size = min(WINDOW, -(-len(rows) // (_WINDOWS_PER_WORKER * num_workers)))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@contextmanager
def _ray_session(config: ScoreConfig) -> Iterator[Any]:
    """Use the Ray this process is connected to; else start or find one, and leave it at the end."""
    for name, value in (_ANY_RAY | ({} if config.ray_address else _OWN_RAY)).items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    is_ours = not ray.is_initialized()
    with _quiet_loggers():
        if is_ours:
            _connect(ray, config)
        try:
            yield ray
        finally:
            if is_ours:
                ray.shutdown()


def _connect(ray: Any, config: ScoreConfig) -> None:
    options: dict[str, Any] = {"address": config.ray_address}
    if config.ray_address is None:
        options = {
            "address": "local",
            # A core is a seat here: whoever asks for more workers than cores gets them.
            "num_cpus": max(count_cores(), config.ray_workers or 0),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        _knock(config.ray_address or "")
        with _quiet_native_part(), warnings.catch_warnings():
            # Ray forks to start its own processes, which have no use for Lance.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Ray at {config.ray_address or 'this machine'} does not answer: {error}",
            hint="Give --ray-address auto on a machine of the cluster, or HOST:6379 (with "
            "RAY_AUTH_MODE=token where it asks for one); without it a Ray of its own is started.",
        ) from error


def _knock(address: str) -> None:
    """Fail where nobody listens; Ray would wait there for more than ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Keep what Ray has to say off stderr, where progress is drawn; errors are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _quiet_native_part() -> Iterator[None]:
    """Have Ray's native part log nothing, and not see it say so: it writes past Python."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
