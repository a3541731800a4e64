"""The order in which samples are scored, and the processes that read them ahead."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sources import draw_png
from support.stored import add_sample, encode, make_audit

from bye_audit import schema
from bye_audit.config import ScoreConfig
from bye_audit.mini import scenes
from bye_audit.model.loading import load_model
from bye_audit.score import score_samples, work
from bye_audit.score.work import WindowReader, plan_windows
from bye_audit.score.workers import choose_num_workers, read_windows
from bye_audit.store.tables import AuditTables

QUESTIONS = ("What color is it?", "Where is the star?", "How many?")


def images(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [encode(scenes.draw_scene(rng).image) for _ in range(count)]


def make_questions(folder: Path, about: list[int | None]) -> AuditTables:
    """Make an audit of one question for each entry, about the image of that number."""
    tables = AuditTables.create(folder)
    drawn = images(4)
    for row, image in enumerate(about):
        data = None if image is None else drawn[image]
        add_sample(tables, f"s:{row}", QUESTIONS[row % 3], "red", data)
    return tables


@settings(max_examples=12, deadline=None)
@given(about=st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=14))
def test_questions_about_an_image_follow_its_first_and_nothing_else_moves(
    about: list[int | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables = make_questions(tmp_path_factory.mktemp("audit") / "a", about)
    tables.add_sample_columns(schema.score_fields(1, {"run": "r"}))
    planned = [int(row) for window in plan_windows(tables, retries_errors=False) for row in window]
    expected: list[int] = []
    for row, image in enumerate(about):
        if row not in expected:
            same = [other for other in range(len(about)) if about[other] == image]
            expected += [row] if image is None else same
    assert planned == expected


def test_only_what_has_no_score_is_planned(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_questions(tmp_path / "a", [0, 1, None, 0])
    add_sample(tables, "s:4", "What?", "red", b"no image at all")
    score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(plausibility=False))
    assert plan_windows(tables, retries_errors=False) == []
    (retried,) = plan_windows(tables, retries_errors=True)
    assert retried.tolist() == [4]


def test_samples_with_a_video_are_kept_and_never_scored(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_questions(tmp_path / "a", [0, 1])
    add_sample(tables, "s:2", "<image><video>?", "red", draw_png(1)[0], unscorable="a video")
    summary = score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig(plausibility=False))
    assert (summary.num_ok, summary.num_not_scorable) == (2, 1)
    (row,) = tables.read_samples(["score_error"], "score_status = 'not_scorable'").to_pylist()
    assert row["score_error"] == "it has a video"


def test_two_runs_give_identical_bits(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    columns = [schema.entropy_column(2), schema.image_mass_column(1), "answer_logp"]
    found = []
    for name in ("one", "two"):
        tables = make_questions(tmp_path / name, [0, 1, 0, 2, 1, 0, 3])
        score_samples(tables, str(tiny_vlm_dir), None, ScoreConfig())
        found.append(tables.read_samples(columns))
        (run,) = tables.runs("score")
        assert run.record["reuses_prefixes"]
    assert found[0].equals(found[1])


def make_reader(tables: AuditTables, tiny_vlm_dir: Path) -> WindowReader:
    encoder = load_model(str(tiny_vlm_dir)).encoder
    return WindowReader(tables, tables.version(), encoder, "first")


def test_windows_read_ahead_by_a_process_are_those_read_here(
    tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    tables = make_audit(tmp_path / "audit", 4)
    reader = make_reader(tables, tiny_vlm_dir)
    windows = [np.array([row]) for row in (3, 1, 2, 0)] * 40
    expected = {row: pickle.dumps(reader.read([row])) for row in range(4)}
    children = set()
    for window, samples in zip(windows, read_windows(reader, windows, 1), strict=True):
        time.sleep(0.1)
        children |= {process.pid for process in psutil.Process().children(recursive=True)}
        assert [s.sample_id for s in samples] == [f"s:{row}" for row in window]
        known = pickle.loads(expected[int(window[0])])[0].encoding  # noqa: S301
        found = samples[0].encoding
        assert found is not None
        assert found.continuation_ids == known.continuation_ids
        for name, value in found.inputs.items():
            assert (value == known.inputs[name]).all()
    assert children, "no process was started"


def test_a_reading_process_that_dies_is_done_without(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", 4)
    reader = make_reader(tables, tiny_vlm_dir)
    windows = [np.array([row % 4]) for row in range(120)]
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    seen = []
    for number, samples in enumerate(read_windows(reader, windows, 1)):
        time.sleep(0.1)
        seen.append(samples[0].sample_id)
        if number == 100:
            for process in psutil.Process().children(recursive=True):
                if process.pid not in before:
                    process.kill()
    assert seen == [f"s:{row % 4}" for row in range(120)]


def test_few_windows_are_read_here_and_one_core_is_left_to_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bye_audit.score.workers.count_cores", lambda: 4)
    assert choose_num_workers(2, None) == 0
    assert choose_num_workers(1000, None) == 3
    assert choose_num_workers(2, 5) == 5
    monkeypatch.setattr("bye_audit.score.workers.count_cores", lambda: 1)
    assert choose_num_workers(1000, None) == 0


def test_a_window_is_small_enough_for_its_images_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "WINDOW", 3)
    tables = make_questions(tmp_path / "a", [0, 1, 2, 0, 1, 2, 0])
    tables.add_sample_columns(schema.score_fields(1, {"run": "r"}))
    assert [w.tolist() for w in plan_windows(tables, retries_errors=False)] == [
        [0, 3, 6],
        [1, 4, 2],
        [5],
    ]
