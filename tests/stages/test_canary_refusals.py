"""What a canary refuses, before any training where that can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.canaries import DETECT, ONE, QUICK, make_finetuned_audit, suspect
from support.stored import add_sample, encode, make_audit

from bye_audit import Audit, CanaryConfig
from bye_audit.canary.copying import Truth
from bye_audit.errors import (
    ConfigError,
    EmptySourceError,
    StageNotRunError,
    StorageError,
    TableError,
    TooFewSamplesError,
)
from bye_audit.mini.scenes import CAPTION_PROMPT
from bye_audit.store.tables import AuditTables


@pytest.fixture(scope="module")
def audit(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return make_finetuned_audit(tmp_path_factory.mktemp("refusals"), tiny_vlm_dir)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 1}, "seed: 0, now 1"), ({"relative_size": 0.5}, "relative size: 0.25, now 0.5")],
    ids=["seed", "size"],
)
def test_other_settings_are_never_mixed(audit: Audit, change: dict[str, Any], says: str) -> None:
    audit.canary(ONE, detect=DETECT)
    with pytest.raises(ConfigError, match=says) as raised:
        audit.canary(replace(ONE, **change), detect=DETECT)
    assert "--out" in raised.value.hint
    with pytest.raises(ConfigError, match="finetune epochs: 1"):
        audit.canary(ONE, finetune={"epochs": 2.0}, detect=DETECT)


def test_samples_that_came_later_are_never_mixed_in(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", 30)
    audit = Audit.open(tables.uri)

    def run() -> None:
        audit.canary(ONE, model=tiny_vlm_dir, finetune=QUICK, detect=DETECT)

    run()
    suspect(tables, ["s:3"])
    with pytest.raises(ConfigError, match="suspected samples"):
        run()
    white = encode(Image.new("RGB", (8, 8), "white"))
    add_sample(tables, "s:30", CAPTION_PROMPT, "a shape", white)
    with pytest.raises(ConfigError, match=r"\(samples: .*suspected samples: "):
        run()


def test_an_unknown_attack_names_those_there_are(audit: Audit) -> None:
    with pytest.raises(ConfigError, match="no attack 'magic'") as raised:
        audit.canary(replace(ONE, attacks=("patch", "magic")))
    assert "text-prefix" in raised.value.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rates": (0.0,)}, "--rate"),
        ({"rates": (0.1, float("nan"))}, "--rate"),
        ({"rates": (0.6,)}, "--rate"),
        ({"rates": ()}, "--rate"),
        ({"attacks": ()}, "--attack"),
        ({"relative_size": 0.0}, "--relative-size"),
        ({"seed": -1}, "--seed"),
        ({"min_recall": 1.5}, "--min-recall"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(ONE, **change)


def test_a_rate_that_plants_nothing_is_refused_before_any_training(
    audit: Audit, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is none") as raised:
        audit.canary(replace(ONE, rates=(0.2, 0.001)), out_dir=tmp_path / "o", detect=DETECT)
    assert "0.026" in raised.value.hint
    assert not list((tmp_path / "o").glob("patch*"))


def test_an_attack_that_asks_for_too_much_is_refused(audit: Audit, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dual-key cannot be planted at rate 0\.5"):
        audit.canary(
            CanaryConfig(attacks=("dual-key",), rates=(0.5,)), out_dir=tmp_path, detect=DETECT
        )


def test_too_few_samples_are_refused(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", 8)
    with pytest.raises(TooFewSamplesError, match="Only 8 of 8"):
        Audit.open(tables.uri).canary(ONE, model=tiny_vlm_dir, finetune=QUICK)
    with pytest.raises(EmptySourceError):
        Audit.open(AuditTables.create(tmp_path / "empty").uri).canary(ONE, model=tiny_vlm_dir)


def test_without_a_provisional_model_one_must_be_named(tmp_path: Path) -> None:
    tables = make_audit(tmp_path / "audit", 30)
    with pytest.raises(StageNotRunError) as raised:
        Audit.open(tables.uri).canary(ONE)
    assert "--model" in raised.value.hint


def test_copies_go_neither_into_the_audit_nor_among_other_files(
    audit: Audit, tmp_path: Path
) -> None:
    for inside in (Path(audit.uri), Path(audit.uri) / "canary"):
        with pytest.raises(ConfigError, match="inside the audit"):
            audit.canary(ONE, out_dir=inside)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no canary"):
        audit.canary(ONE, out_dir=tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file"):
        audit.canary(ONE, out_dir=tmp_path / "mine" / "thesis.txt")
    (tmp_path / "mine" / "settings.json").write_text("{")
    with pytest.raises(ConfigError, match="no longer says"):
        audit.canary(ONE, out_dir=tmp_path / "mine", detect=DETECT)


def test_a_lost_truth_is_said(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="planted") as raised:
        Truth.read(tmp_path)
    assert str(tmp_path) in raised.value.hint


def test_an_audit_that_moved_is_not_mixed_up(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    make_audit(tmp_path / "audit", 30)
    out = tmp_path / "out"
    Audit.open(tmp_path / "audit").canary(
        ONE, model=tiny_vlm_dir, out_dir=out, finetune=QUICK, detect=DETECT
    )
    (tmp_path / "audit").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="audit: "):
        Audit.open(tmp_path / "moved").canary(
            ONE, model=tiny_vlm_dir, out_dir=out, finetune=QUICK, detect=DETECT
        )


def test_an_audit_in_an_object_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bye_audit.canary import stage

    monkeypatch.setattr(stage, "require_images", lambda tables: None)
    with pytest.raises(StorageError, match="local"):
        stage.run_canary(AuditTables("s3://bucket/audit"), "model", ONE)
