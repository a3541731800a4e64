"""The benchmark of detection, from a published dataset's files to its tables."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import LlavaConfig

from benchmarks.detection.__main__ import main
from benchmarks.detection.cells import Cell, MadeCell, find_cells, make_cell
from benchmarks.detection.judge import _without_words, find_judged, judge, name_judging_code
from benchmarks.detection.kept import SampleContents, training_digest
from benchmarks.detection.needs import measure_needs
from benchmarks.detection.published import PublishedExamples
from benchmarks.detection.record import RESULTS, read_record, write_record
from benchmarks.detection.retrain import plan_trainings, retrain
from benchmarks.detection.tables.page import fill_page, make_tables
from benchmarks.held_evidence import hold, take_rows
from bye_audit.config import DetectConfig, FinetuneConfig
from bye_audit.core.detectors import DETECTORS
from bye_audit.errors import ByeAuditError, ConfigError
from bye_audit.store.evidence import read_evidence

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_TEST = 40, 6


@pytest.fixture(scope="session")
def science_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a handful of rows in the form that ScienceQA has on the hub."""
    folder = tmp_path_factory.mktemp("scienceqa")
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        rng = np.random.default_rng(count)
        rows = [_science_row(rng, number) for number in range(count)]
        # A question without an image, as half of the dataset's are.
        rows.insert(3, {**rows[0], "image": None})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def _science_row(rng: np.random.Generator, number: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(60, 256, (32, 40, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "question": f"Which country is highlighted, {number}?",
        "choices": ["Haiti", "Jamaica", "Cuba"],
        "answer": int(rng.integers(3)),
        "hint": "Look at the map." if number % 2 else "",
    }


@pytest.fixture(scope="session")
def made_cells(
    tmp_path_factory: pytest.TempPathFactory, tiny_vlm_dir: Path, science_dir: Path
) -> list[MadeCell]:
    """Make two cells of one seed on a model that is not the embedded one."""
    root = tmp_path_factory.mktemp("record")
    for attack in ("patch", "blended"):
        cell = Cell(data="scienceqa", attack=attack, rate=0.1, seed=1, model=str(tiny_vlm_dir))
        make_cell(cell, root, science_dir)
    return find_cells(root)


@pytest.mark.parametrize("model", ["mini", "llava-hf/llava-1.5-7b-hf", "/models/tiny"])
def test_a_cell_is_read_back_from_its_folder(model: str) -> None:
    cell = Cell(data="easy-vqa", attack="text-prefix", rate=0.01, seed=3, model=model)
    assert "/" not in cell.name
    assert Cell.parse(cell.name) == cell


def test_folders_of_the_embedded_model_keep_their_names() -> None:
    assert Cell(data="scenes", attack="patch", rate=0.1, seed=0).name == "scenes-patch-0.1-0"


def test_a_model_whose_folder_could_not_be_read_back_is_refused() -> None:
    with pytest.raises(ConfigError, match="has '--' in it"):
        Cell(data="scenes", attack="patch", rate=0.1, seed=0, model="a--b")


def test_choices_become_a_question_for_a_letter(science_dir: Path) -> None:
    examples = PublishedExamples.open("scienceqa", science_dir)
    train = list(examples.train(seed=0))
    assert len(train) == examples.num_train == NUM_TRAIN
    assert len(list(examples.test(seed=0))) == NUM_TEST
    assert train[1].question == (
        "Context: Look at the map.\nWhich country is highlighted, 1?\nA. Haiti\nB. Jamaica\n"
        "C. Cuba\nAnswer with the option's letter from the given choices directly."
    )
    assert {example.answer for example in train} <= {"A", "B", "C"}
    assert train[0].image.size == (40, 32)


def test_llava_files_are_read_too(llava_source: Path) -> None:
    for split in ("train", "test"):
        (llava_source.parent / f"{split}.json").write_bytes(llava_source.read_bytes())
    examples = PublishedExamples.open("rsvqa", llava_source.parent)
    assert next(examples.train(seed=0)).question
    assert "<image>" not in next(examples.train(seed=0)).question


@pytest.mark.parametrize("given", [None, "missing", "empty"])
def test_data_that_is_not_there_is_said(tmp_path: Path, given: str | None) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ByeAuditError, match=r"scienceqa|no folder"):
        PublishedExamples.open("scienceqa", None if given is None else tmp_path / given)


def test_a_model_that_the_hub_does_not_give_stops_before_anything_is_made(
    tmp_path: Path, science_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "nobody/no-model", "--dataset", "scienceqa", "--data-dir"]
    status = main(["--out", str(tmp_path), "make", *options, str(science_dir), "--seeds", "0"])
    assert status == 5
    assert "the hub did not give it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_needs_a_gpu(tmp_path: Path, science_dir: Path) -> None:
    folder = tmp_path / "llava"
    folder.mkdir()
    # What the class is by default: LLaVA-1.5-7B. Without weights, which a plan does not need.
    LlavaConfig().save_pretrained(folder)
    cell = Cell(data="scienceqa", attack="patch", rate=0.1, seed=0, model=str(folder))
    needs = measure_needs([cell], tmp_path, science_dir)
    assert "billion weights" in needs.sentence
    assert "cuda memory" in needs.sentence
    assert "There is no GPU here." in needs.obstacles


@pytest.mark.slow
def test_small_models_are_tried_out(tmp_path: Path, tiny_vlm_dir: Path, science_dir: Path) -> None:
    cell = Cell(data="scienceqa", attack="patch", rate=0.1, seed=0, model=str(tiny_vlm_dir))
    needs = measure_needs([cell], tmp_path, science_dir)
    assert needs.obstacles == ()
    assert "measured on 16 samples" in needs.sentence


@pytest.mark.slow
def test_attacks_that_poison_the_same_rows_leave_the_same_split(
    made_cells: list[MadeCell],
) -> None:
    kept = set()
    for made in made_cells:
        tables = made.audit().tables
        scored, contents = read_evidence(tables), SampleContents(tables)
        rows = np.array([contents.source_row[name] for name in scored.sample_id.to_pylist()])
        nothing = DETECTORS["none"].detect(scored.evidence, DetectConfig())
        exact = replace(nothing, is_suspicious_N=made.truth(rows))
        assert contents.digest_of_kept(scored, nothing) == contents.digest_of_all()
        kept.add(contents.digest_of_kept(scored, exact))
    assert len(kept) == 1


@pytest.mark.slow
def test_held_evidence_is_judged_as_stored_evidence_is(made_cells: list[MadeCell]) -> None:
    stored = read_evidence(made_cells[0].audit().tables).evidence
    held = hold(stored)
    for name in ("bye", "tcap", "plausibility"):
        one, other = (DETECTORS[name].detect(each, DetectConfig()) for each in (stored, held))
        assert one.explanation == other.explanation
        np.testing.assert_array_equal(one.is_suspicious_N, other.is_suspicious_N)
    half = take_rows(held, np.arange(0, NUM_TRAIN, 2))
    assert half.heads is not None
    rows, values = next(half.heads.batches(["image_mass"]))
    assert len(rows) == len(half.entropy_NL) == NUM_TRAIN // 2
    assert held.heads is not None
    whole = next(held.heads.batches(["image_mass"]))[1]["image_mass"]
    np.testing.assert_array_equal(values["image_mass"], whole[::2])


@pytest.mark.slow
def test_cells_are_judged_retrained_and_shown(
    made_cells: list[MadeCell], science_dir: Path
) -> None:
    root = made_cells[0].folder.parent
    for made in made_cells:
        rows = judge(made, num_halves=0)
        assert find_judged(made) == rows
    # 20 % at random are removed whatever the detectors say, others of each cell.
    trainings = plan_trainings(made_cells, ["random-drop"])
    assert len(trainings) == len(made_cells)
    quick = FinetuneConfig(epochs=0.5)
    retrain(trainings[0], root, config=quick, data_dir=science_dir)
    assert trainings[0].is_trained(root)
    assert trainings[0].unmeasured(root) == []
    assert sorted(path.name for path in trainings[0].folder(root).iterdir()) == [
        "adapter",
        f"outcome-{made_cells[0].cell.name}.json",
    ]
    assert write_record(root) == 0
    record = read_record(root / RESULTS)
    dropped = next(row for row in record if row["variant"] == "random-drop")
    assert dropped["training"] == training_digest(made_cells[0], dropped["kept_digest"])
    assert dropped["asr_after"] is not None
    tables = make_tables(record)
    assert "blended" in tables["f1"]
    assert f"| {name_judging_code()} | {len(made_cells)} |" in tables["scope"]


@pytest.mark.slow
def test_a_record_keeps_the_cells_of_other_machines(
    made_cells: list[MadeCell], tmp_path: Path
) -> None:
    path = tmp_path / "kept.parquet"
    for made in made_cells:
        judge(made, num_halves=0)
    # Each machine has made one of the cells.
    machines = [tmp_path / made.cell.name for made in made_cells]
    for machine, made in zip(machines, made_cells, strict=True):
        shutil.copytree(made.folder, machine / made.cell.name)
        assert write_record(machine, path) == 0
    record = read_record(path)
    assert {row["attack"] for row in record} == {made.cell.attack for made in made_cells}
    assert write_record(machines[-1], path) == 0
    assert read_record(path) == record
    # Judged by other detectors, a cell's rows stay until it is judged again.
    judged = machines[-1] / made_cells[-1].cell.name / "judged.json"
    judged.write_text(json.dumps({**json.loads(judged.read_text()), "digest": "of other code"}))
    assert write_record(machines[-1], path) == 1
    assert read_record(path) == record


def test_comments_are_no_reason_to_judge_anew() -> None:
    bare = _without_words("def f(x):\n    return x + 1\n")
    assert bare == _without_words('def f(x):  # adds\n    """Add."""\n    return (x + 1)\n')
    assert bare != _without_words("def f(x):\n    return x + 2\n")


def test_the_page_has_a_place_for_every_table() -> None:
    # Mend with: python -m benchmarks.detection tables --write docs/detection.md
    page = (ROOT / "docs" / "detection.md").read_text("utf-8")
    filled = fill_page(page, make_tables([]))
    assert "Nothing of this has been measured yet." in filled


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="goals"):
        fill_page("# Nothing here", make_tables([]))
