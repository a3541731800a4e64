"""The demo from data to figures, on a plan small enough for a test: plumbing, not performance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bye_audit.config import FinetuneConfig
from bye_audit.core.detectors import DETECTORS
from bye_audit.demo import DemoPlan, plan_demo, run_demo
from bye_audit.errors import ConfigError
from bye_audit.mini.dataset import CaptionedScenes

PLAN = DemoPlan(
    examples=CaptionedScenes(num_train=60, num_test=8),
    finetune=FinetuneConfig(learning_rate=2e-3, epochs=1),
    refinetune=True,
)


@pytest.mark.slow
def test_the_demo_measures_every_stage_and_goes_on_where_it_was(tmp_path: Path) -> None:
    result = run_demo(tmp_path, plan=PLAN)
    found = result.to_json()
    assert json.loads((tmp_path / "demo.json").read_text("utf-8")) == json.loads(json.dumps(found))
    for name in ("asr_before", "asr_after", "cp_before", "cp_after", "precision", "recall", "f1"):
        assert 0 <= found[name] <= 1
    assert found["num_samples"] == 60
    assert found["num_poisoned"] == 6
    speaking = {
        name for name, detector in DETECTORS.items() if detector.role in ("witness", "judge")
    }
    assert set(found["detectors"]) == speaking
    assert len(found["bsi"]) == 6
    assert found["peak_memory_mb"] > 100
    assert Path(result.report).stat().st_size > 10_000
    assert (Path(result.split) / "train.json").is_file()
    truth = json.loads((tmp_path / "ground_truth.json").read_text("utf-8"))
    assert len(truth["poisoned_rows"]) == 6
    assert any("F1" in line for line in result.summary_lines())

    again = run_demo(tmp_path, plan=PLAN)
    assert again.f1 == result.f1
    assert again.asr_before == result.asr_before


def test_a_folder_is_kept_for_one_set_of_options(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"seed": 1, "plan": "another"}))
    with pytest.raises(ConfigError) as raised:
        run_demo(tmp_path, plan=PLAN)
    assert "--out" in raised.value.hint


def test_the_quick_form_is_smaller_and_trains_once() -> None:
    quick, whole = plan_demo(quick=True, seed=0), plan_demo(quick=False, seed=0)
    assert quick.examples.num_train < whole.examples.num_train
    assert whole.refinetune
    assert not quick.refinetune
    assert quick.attack == whole.attack
