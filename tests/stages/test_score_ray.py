"""Scoring on a real Ray of this machine: whatever dies, every sample ends up with one score."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from support.sources import write_llava_source
from support.stored import add_sample, make_audit

from bye_audit import Audit, mini, schema
from bye_audit.cli.main import bye_audit
from bye_audit.config import FinetuneConfig, ScoreConfig
from bye_audit.errors import ConfigError, ModelError, UnsupportedModelError
from bye_audit.finetune import finetune_provisional
from bye_audit.model.encodings import Encoding
from bye_audit.model.identity import identify_model
from bye_audit.model.loading import load_model
from bye_audit.model.samples import SampleScore, TurnScore
from bye_audit.model.scoring import SampleScorer
from bye_audit.schema import ScoreStatus
from bye_audit.score import score_samples
from bye_audit.score.ledger import ScoreSummary
from bye_audit.score.ray_engine import make_assignment, score_on_ray
from bye_audit.score.ray_worker import ROWS, ScoreWorker, open_reply
from bye_audit.score.wire import pack_scores, unpack_scores
from bye_audit.score.work import WindowReader, plan_windows
from bye_audit.store.tables import AuditTables

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra bye-audit[ray] is not installed"
)
# Ray warns of its own future and leaves files of its session to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
MINI = str(mini.model_dir())
ON_RAY = ScoreConfig(engine="ray", ray_workers=2, commit_seconds=0.01)
FAST = FinetuneConfig(epochs=1, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8)


class KillingProgress:
    """Kills one of Ray's workers once some samples are done."""

    def __init__(self) -> None:
        self.killed: int | None = None

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[KillingProgress]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        if self.killed is None:
            worker = next(p for p in children_of(os.getpid()) if "ScoreWorker" in name_of(p))
            self.killed = worker.pid
            worker.send_signal(signal.SIGKILL)


def ingest_scenes(folder: Path, num_samples: int) -> AuditTables:
    source = write_llava_source(folder / "source", num_samples)
    return Audit.open(folder / "audit").ingest(source).tables


def children_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def scores_of(tables: AuditTables) -> dict[str, dict[str, Any]]:
    names = [
        name
        for name in tables.sample_columns()
        if name.startswith(("entropy", "image_mass", "answer_logp", "score_", "sample_id"))
    ]
    rows: list[dict[str, Any]] = tables.read_samples(names).to_pylist()
    return {row["sample_id"]: row for row in rows}


def heads_of(tables: AuditTables) -> list[str]:
    run_id = next(iter(scores_of(tables).values()))["score_run"]
    return [
        sample_id
        for batch in tables.scan_head_scores(run_id, ["sample_id"])
        for sample_id in batch["sample_id"].to_pylist()
    ]


def assert_same_scores(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for sample_id, row in one.items():
        assert row["score_status"] == other[sample_id]["score_status"]
        assert row["score_error"] == other[sample_id]["score_error"]
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[sample_id][name], abs=1e-5), name


# --- on a real Ray ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """Start one Ray for all tests that do not kill what started it."""
    from bye_audit.score.ray_engine import _ray_session

    with _ray_session(ON_RAY):
        yield


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_changes_no_score(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables, local = (ingest_scenes(tmp_path / name, 120) for name in ("ray", "local"))
    for audit in (tables, local):
        add_sample(audit, "s:0", "No image.", "no", None)
        add_sample(audit, "s:1", "What is it?", "red", b"broken bytes")
    score_samples(local, MINI, None, ScoreConfig())
    progress = KillingProgress()
    summary = score_samples(tables, MINI, None, ON_RAY, progress=progress)
    assert progress.killed is not None
    assert capfd.readouterr() == ("", "")
    assert (summary.num_ok, summary.num_not_scorable, summary.num_errors) == (120, 1, 1)
    assert_same_scores(scores_of(tables), scores_of(local))
    assert sorted(heads_of(tables)) == sorted(heads_of(local))
    (run,) = tables.runs("score")
    assert run.record["engine"] == "ray"
    assert run.record["num_layers"] == local.runs("score")[0].record["num_layers"]
    assert score_samples(tables, MINI, None, ON_RAY).num_done == 0
    workers = [p for p in children_of(os.getpid()) if "ScoreWorker" in name_of(p)]
    assert not psutil.wait_procs(workers, timeout=30)[1]


@needs_ray
@pytest.mark.slow
def test_samples_that_take_every_worker_down_end_the_run(
    ray_session: None, tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    from support.ray_workers import DyingWorker

    tables = make_audit(tmp_path / "audit", 2)
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
    assignment = make_assignment(
        tables, str(tiny_vlm_dir), None, replace(ON_RAY, ray_workers=1), trust_remote_code=False
    )
    with pytest.raises(ModelError, match="died 4 times over the same samples") as caught:
        list(score_on_ray(assignment, [np.array([0])], ScoreSummary("r"), DyingWorker))
    assert "same command" in caught.value.hint


@needs_ray
def test_more_than_ray_has_is_refused(ray_session: None, tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", 1)
    for asked in (replace(ON_RAY, ray_workers=64), replace(ON_RAY, gpus_per_worker=8)):
        with pytest.raises(ConfigError, match=r"room for \d+ workers"):
            score_samples(tables, MINI, None, asked)


@needs_ray
@pytest.mark.slow
def test_killed_then_stopped_then_finished(tmp_path: Path) -> None:
    tables = ingest_scenes(tmp_path, 1500)
    killed = _start_command(tables.uri)
    started = _wait_for_scores(tables, killed, more_than=0)
    # Two helpers without a model look for the rest of their Ray for a minute before they give up.
    started = [process for process in started if "Agent" not in name_of(process)]
    killed.kill()
    killed.wait()
    assert not psutil.wait_procs(started, timeout=30)[1]
    first = _scored(tables)
    assert 0 < len(first) < 1500

    stopped = _start_command(tables.uri)
    started = _wait_for_scores(tables, stopped, more_than=len(first))
    # As a terminal does it: the signal goes to everything that the command has started.
    os.killpg(stopped.pid, signal.SIGINT)
    _, remarks = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert not psutil.wait_procs(started, timeout=30)[1]
    # A slow machine has said before how far it is.
    said = [line.split(":")[0] for line in remarks.splitlines()]
    assert [word for word in said if word != "Scoring"] == ["Error", "Hint"], remarks
    assert "Run the same command again" in remarks
    second = _scored(tables)
    assert len(first) < len(second) < 1500

    summary = score_samples(tables, MINI, None, ScoreConfig())
    assert summary.num_ok == 1500 - len(second)
    final = _scored(tables)
    assert len(final) == 1500
    for sample_id, row in (first | second).items():
        assert final[sample_id] == row
    assert set(heads_of(tables)) == set(final)


def _start_command(uri: str) -> subprocess.Popen[str]:
    command = ["score", uri, "--model", "mini", "--engine", "ray", "--ray-workers", "1"]
    # A shell's background job ignores interrupts and hands that down.
    heeding = ["env", "--default-signal=INT", sys.executable, "-m", "bye_audit"]
    return subprocess.Popen(
        [*heeding, *command, "--commit-seconds=0.01", "--batch-tokens=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_scores(
    tables: AuditTables, process: subprocess.Popen[str], more_than: int
) -> list[psutil.Process]:
    """Wait until new scores are committed; give all processes that are at work for them."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if len(_scored(tables)) > more_than:
            return children_of(process.pid)
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no new scores: {process.communicate()}")


def _scored(tables: AuditTables) -> dict[str, dict[str, Any]]:
    if "score_status" not in tables.sample_columns():
        return {}
    return {name: row for name, row in scores_of(tables).items() if row["score_status"]}


# --- without Ray --------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    return make_audit(tmp_path / "audit")


def ask(worker: ScoreWorker, rows: list[int]) -> list[SampleScore]:
    (reply,) = worker(pa.table({ROWS: [rows]}))
    (window,) = open_reply(reply)
    return window[0]


@needs_ray
def test_memory_that_runs_out_halves_the_batch_and_names_the_sample(
    tables: AuditTables, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SampleScorer._measure_batch
    sizes = []

    def measure(self: SampleScorer, encodings: list[Encoding]) -> Any:
        sizes.append(len(encodings))
        if len(encodings) > 1 or encodings[0].continuation_ids == too_large:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, encodings)

    config = ScoreConfig(engine="ray", reuse_prefix=False, batch_tokens=100_000)
    assignment = make_assignment(tables, str(tiny_vlm_dir), None, config, trust_remote_code=False)
    encoder = load_model(str(tiny_vlm_dir)).encoder
    (sample,) = WindowReader(tables, tables.version(), encoder, answers="first").read([5])
    assert sample.encoding is not None
    too_large = sample.encoding.continuation_ids
    monkeypatch.setattr(SampleScorer, "_measure_batch", measure)
    scores = {score.sample_id: score for score in ask(ScoreWorker(assignment), list(range(8)))}
    assert max(sizes) > 1
    assert len(scores) == 8
    failed = {name: score.error for name, score in scores.items() if score.status != "ok"}
    assert failed["s:5"] == "out of memory"
    assert len(failed) < 8


@needs_ray
def test_what_a_worker_cannot_do_comes_back_as_its_own_error(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    config = ScoreConfig(engine="ray", layers=(99,))
    assignment = make_assignment(tables, str(tiny_vlm_dir), None, config, trust_remote_code=False)
    with pytest.raises(UnsupportedModelError, match="no attention in layers") as caught:
        ask(ScoreWorker(assignment), [0])
    assert caught.value.hint
    other = replace(assignment, identity=replace(assignment.identity, digest="of other files"))
    with pytest.raises(ModelError, match="other files under the name"):
        ask(ScoreWorker(other), [0])


def test_a_model_is_named_alike_with_and_without_its_weights(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    adapter_dir = finetune_provisional(tables, str(tiny_vlm_dir), FAST).adapter_dir
    for adapter in (None, adapter_dir):
        named = identify_model(str(tiny_vlm_dir), adapter_dir=adapter, device="cpu")
        assert named == load_model(str(tiny_vlm_dir), adapter_dir=adapter).identity
    assert identify_model(str(tiny_vlm_dir), device="cuda").dtype == "bfloat16"


def test_scores_survive_the_way_to_another_process(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    add_sample(tables, "s:8", "No image.", "no", None)
    vlm = load_model(str(tiny_vlm_dir))
    reader = WindowReader(tables, tables.version(), vlm.encoder, answers="first")
    with SampleScorer(vlm, ScoreConfig(layers=(1,))) as scorer:
        sent = [score for part in scorer.score(reader.read(range(9))) for score in part]
    received = unpack_scores(pack_scores(sent))
    for one, other in zip(sent, received, strict=True):
        assert (one.sample_id, one.status, one.error) == (
            other.sample_id,
            other.status,
            other.error,
        )
        assert one.num_image_tokens == other.num_image_tokens
        assert isinstance(other.status, ScoreStatus)
        for name in ("entropy_L", "image_mass_L", "answer_logp", "answer_logp_base"):
            np.testing.assert_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_equal(one.heads_SLH.astype(np.float16), other.heads_SLH)


def test_without_the_extra_one_sentence_says_what_to_install(
    tables: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ray" else find(name, *rest),
    )
    result = CliRunner().invoke(
        bye_audit, ["score", tables.uri, "--model", "mini", "--engine", "ray"]
    )
    assert result.exit_code == 7
    assert "needs Ray, which is not installed" in result.stderr
    assert "pip install 'bye-audit[ray]'" in result.stderr
    assert schema.entropy_column(0) not in tables.sample_columns()


@needs_ray
def test_an_address_where_nobody_listens_is_named() -> None:
    import ray

    from bye_audit.score.ray_engine import _connect

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = ScoreConfig(engine="ray", ray_address=address, gpus_per_worker=0)
        with pytest.raises(ConfigError, match=f"Ray at {address} does not answer"):
            _connect(ray, config)


def test_settings_of_ray_need_ray() -> None:
    with pytest.raises(ConfigError, match="need --engine ray"):
        ScoreConfig(ray_workers=2)
    with pytest.raises(ConfigError, match="at least 1"):
        ScoreConfig(engine="ray", ray_workers=0)


def test_windows_are_shared_out_so_that_all_workers_end_together(tables: AuditTables) -> None:
    from bye_audit.score.ray_engine import _cut

    score_rows = plan_windows_of(tables)
    cut = _cut(score_rows, 2)
    assert [len(rows) for rows in cut] == [1] * 8
    assert np.concatenate(cut).tolist() == np.concatenate(score_rows).tolist()


def plan_windows_of(tables: AuditTables) -> list[Any]:
    fields = schema.score_fields(1, {})
    tables.add_sample_columns(fields)
    return plan_windows(tables, retries_errors=False)


def test_later_turns_travel_with_the_scores() -> None:
    turn = TurnScore(1, 81, np.array([0.5, np.nan]), np.array([0.1, 0.2]), -0.3, np.nan)
    score = SampleScore("s:0", ScoreStatus.OK, later_turns=(turn,))
    (found,) = unpack_scores(pack_scores([score]))
    (back,) = found.later_turns
    np.testing.assert_array_equal(back.entropy_L, turn.entropy_L)
    np.testing.assert_array_equal(back.image_mass_L, turn.image_mass_L)
    assert (back.turn, back.num_image_tokens, back.answer_logp) == (1, 81, -0.3)
    assert np.isnan(back.answer_logp_base)
