"""Fine-tuning in two real processes on a CPU, as torchrun starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from support.stored import add_sample, make_audit

from bye_audit import mini
from bye_audit.cli.main import bye_audit
from bye_audit.config import FinetuneConfig
from bye_audit.errors import ConfigError
from bye_audit.finetune import finetune_provisional
from bye_audit.model.lora import split_batch
from bye_audit.store.tables import AuditTables

CONFIG = FinetuneConfig(
    epochs=2, batch_size=8, micro_batch_size=2, learning_rate=3e-3, gradient_checkpointing=True
)
OPTIONS = [
    "--epochs=2",
    "--batch-size=8",
    "--micro-batch-size=2",
    "--learning-rate=3e-3",
    "--gradient-checkpointing",
]
ROOT = Path(__file__).parents[2]


def finetune_in_two_processes(audit: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "bye_audit", "finetune", audit, "--model", "mini", *OPTIONS]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    alone = make_audit(tmp_path / "alone", num_samples=14)
    # One batch of one process is without any image, and one sample is of no use to either.
    add_sample(alone, "s:14", "Say yes.", "yes", None)
    add_sample(alone, "s:15", "What is it?", "red", b"no image at all")
    shutil.copytree(tmp_path / "alone", tmp_path / "together")
    expected = finetune_provisional(alone, str(mini.model_dir()), CONFIG)
    done = finetune_in_two_processes(str(tmp_path / "together"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Provisional adapter in") == 1

    tables = AuditTables.open(tmp_path / "together")
    (run,) = tables.runs("finetune")
    assert run.record["num_processes"] == 2
    assert run.record["num_left_out"] == expected.num_left_out == 1
    assert run.record["num_steps"] == expected.run.record["num_steps"] == 4
    # The same samples in the same order, summed up in another one: a thousandth is the bound.
    for one, other in zip(expected.run.record["loss_curve"], run.record["loss_curve"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-4)
        assert other["learning_rate"] == one["learning_rate"]
    (folder,) = tables.directory("adapters").iterdir()
    assert folder.name == run.run_id
    weights = load_file(folder / "adapter_model.safetensors")
    for name, weight in load_file(expected.adapter_dir / "adapter_model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, rtol=0.05, atol=1e-3)

    again = finetune_in_two_processes(tables.uri)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Provisional adapter was already in") == 1
    assert len(tables.runs("finetune")) == 1


def test_the_batch_counts_over_all_processes() -> None:
    assert split_batch(FinetuneConfig(batch_size=16), 1) == (16, 1)
    assert split_batch(FinetuneConfig(batch_size=16), 4) == (4, 1)
    assert split_batch(FinetuneConfig(batch_size=16, micro_batch_size=2), 4) == (2, 2)
    for num_processes, micro_batch in ((3, None), (8, 4), (32, None)):
        with pytest.raises(ConfigError, match="cannot be shared") as caught:
            split_batch(FinetuneConfig(micro_batch_size=micro_batch), num_processes)
        assert "--batch-size" in caught.value.hint


def test_only_finetune_runs_in_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(bye_audit, ["score", str(tmp_path)])
    assert result.exit_code == 2
    assert "score cannot run in 2 processes" in result.stderr
