from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.stored import add_sample, make_audit

from bye_audit import Audit
from bye_audit.cli.main import bye_audit
from bye_audit.config import FinetuneConfig
from bye_audit.errors import EmptySourceError
from bye_audit.planning import plan_audit
from bye_audit.store.tables import AuditTables

CONFIG = FinetuneConfig(epochs=2, batch_size=4, lora_rank=4)


@pytest.fixture
def tables(tmp_path: Path) -> AuditTables:
    return make_audit(tmp_path / "audit")


@pytest.fixture
def config_only(tiny_vlm_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "config-only"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_vlm_dir / "config.json").read_bytes())
    return folder


def test_a_plan_measures_times_and_computes_memory_and_disk(
    tables: AuditTables, tiny_vlm_dir: Path
) -> None:
    plan = plan_audit(tables, str(tiny_vlm_dir), CONFIG)
    assert (plan.num_samples, plan.num_steps) == (8, 4)
    assert plan.not_measured == ""
    assert plan.trial is not None
    assert plan.finetune_seconds == pytest.approx(
        plan.trial.finetune_seconds_per_sample * 8 * CONFIG.epochs
    )
    assert plan.score_seconds is not None
    assert plan.score_seconds > 0
    seen = plan.at_longest_seen
    assert seen is not None
    assert seen.length < plan.at_max_length.length == CONFIG.max_length
    assert seen.finetune.total < plan.at_max_length.finetune.total
    assert plan.warnings == []


def test_a_plan_leaves_the_audit_as_it_was(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    before = sorted(path.name for path in Path(tables.uri).rglob("*"))
    plan_audit(tables, str(tiny_vlm_dir), CONFIG)
    assert sorted(path.name for path in Path(tables.uri).rglob("*")) == before


def test_a_config_without_weights_is_enough_for_memory(
    tables: AuditTables, tiny_vlm_dir: Path, config_only: Path
) -> None:
    plan = plan_audit(tables, str(config_only), CONFIG)
    assert plan.trial is None
    assert plan.finetune_seconds is None
    assert "no weights" in plan.not_measured
    whole = plan_audit(tables, str(tiny_vlm_dir), CONFIG)
    assert plan.num_base_weights == whole.num_base_weights
    assert plan.at_max_length.finetune.base_weights == whole.at_max_length.finetune.base_weights


def test_a_device_that_is_not_here_gets_no_times(tables: AuditTables, tiny_vlm_dir: Path) -> None:
    plan = plan_audit(tables, str(tiny_vlm_dir), CONFIG, device="cuda")
    if plan.trial is None:
        assert plan.not_measured == "no cuda is here"
    assert plan.precision == "bfloat16"
    assert plan.is_checkpointing


def test_samples_that_cannot_be_used_end_in_a_reason(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = AuditTables.create(tmp_path / "broken")
    with pytest.raises(EmptySourceError, match="no samples"):
        plan_audit(tables, str(tiny_vlm_dir), CONFIG)
    add_sample(tables, "s:0", "What is it?", "red", b"no image at all")
    plan = plan_audit(tables, str(tiny_vlm_dir), CONFIG)
    assert "can be used" in plan.not_measured


def test_the_command_tells_what_was_measured_and_what_computed(
    tables: AuditTables, tiny_vlm_dir: Path, config_only: Path
) -> None:
    command = ["plan", tables.uri, "--batch-size", "4", "--lora-rank", "4", "--model"]
    shown = CliRunner().invoke(bye_audit, [*command, str(tiny_vlm_dir)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Memory, computed" in shown.stdout
    assert "s a sample in micro-batches of 4." in shown.stdout
    assert f"Next: bye-audit finetune {tables.uri}" in shown.stdout
    shown = CliRunner().invoke(bye_audit, [*command, str(config_only)], catch_exceptions=False)
    assert "Times were not measured: the folder of config-only has a config but no" in shown.stdout


def test_the_command_gives_programs_one_object(tables: AuditTables, config_only: Path) -> None:
    command = ["plan", tables.uri, "--model", str(config_only), "--json"]
    found = json.loads(CliRunner().invoke(bye_audit, command, catch_exceptions=False).stdout)
    assert found["trial"] is None
    assert found["at_max_length"]["finetune"]["base_weights"] > 0
    assert found["warnings"] == []


def test_what_does_not_fit_is_said(tables: AuditTables, config_only: Path) -> None:
    config = FinetuneConfig(batch_size=1_000_000, max_length=100_000)
    plan = plan_audit(tables, str(config_only), config)
    assert any("more memory" in warning for warning in plan.warnings)


def test_the_public_class_plans(tables: AuditTables, config_only: Path) -> None:
    assert Audit.open(tables.uri).plan(config_only, CONFIG).planned is not None
