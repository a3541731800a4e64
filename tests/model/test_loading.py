from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.conversations import draw_conversations
from support.tiny_models import write_tiny_text_model, write_tiny_vlm

from bye_audit.config import FinetuneConfig
from bye_audit.errors import (
    AdapterMismatchError,
    ConfigError,
    ModelError,
    UnsupportedModelError,
)
from bye_audit.model.attention import AttentionProbe
from bye_audit.model.files import model_digest
from bye_audit.model.loading import load_model
from bye_audit.model.lora import train_lora


@pytest.fixture(scope="module")
def adapter_dir(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    train_lora(
        load_model(str(tiny_vlm_dir)), draw_conversations(4), FinetuneConfig(epochs=1), folder
    )
    return folder


def test_a_folder_opens_in_float32_on_a_cpu(tiny_vlm_dir: Path) -> None:
    vlm = load_model(str(tiny_vlm_dir), device="cpu")
    assert vlm.dtype == torch.float32
    assert (vlm.num_layers, vlm.num_heads) == (3, 2)
    assert vlm.revision is None
    assert vlm.digest == model_digest(str(tiny_vlm_dir))
    assert str(tiny_vlm_dir.parent) not in vlm.name
    assert not any(p.requires_grad for p in vlm.model.parameters())


def test_the_digest_changes_with_any_file_of_the_model(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_vlm_dir, copy)
    assert model_digest(str(copy)) == model_digest(str(tiny_vlm_dir))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"extra": 1}))
    assert model_digest(str(copy)) != model_digest(str(tiny_vlm_dir))


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no such folder") as caught:
        load_model(str(tmp_path / "nothing here"))
    assert "hub id" in caught.value.hint


def test_a_hub_id_without_network_says_what_to_check() -> None:
    with pytest.raises(UnsupportedModelError, match="org/not-a-model") as caught:
        load_model("org/not-a-model")
    assert "HF_HUB_OFFLINE" in caught.value.hint


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no config\.json") as caught:
        load_model(str(tmp_path))
    assert "save_pretrained" in caught.value.hint


def test_a_language_model_without_images_is_refused(tmp_path: Path) -> None:
    write_tiny_text_model(tmp_path)
    with pytest.raises(UnsupportedModelError, match="vision-language model") as caught:
        load_model(str(tmp_path))
    assert "image-text-to-text" in caught.value.hint
    assert caught.value.exit_code == ModelError.exit_code == 5


def test_pickled_weights_are_not_read(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_vlm_dir, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(copy))
    assert "safetensors" in caught.value.hint


def test_broken_weights_are_named(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_vlm_dir, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnsupportedModelError, match="cannot be opened") as caught:
        load_model(str(copy))
    assert caught.value.hint


def test_a_folder_without_adapter_is_named(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatchError, match="adapter_model") as caught:
        load_model(str(tiny_vlm_dir), adapter_dir=tmp_path)
    assert "finetune" in caught.value.hint


def test_an_adapter_of_another_model_is_refused(adapter_dir: Path, tmp_path: Path) -> None:
    write_tiny_vlm(tmp_path / "other", seed=1)
    with pytest.raises(AdapterMismatchError, match="was trained on") as caught:
        load_model(str(tmp_path / "other"), adapter_dir=adapter_dir)
    assert "--model" in caught.value.hint


def test_an_adapter_without_card_is_judged_by_its_shapes(
    adapter_dir: Path, tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter_dir, foreign)
    (foreign / "bye_audit.json").unlink()
    assert load_model(str(tiny_vlm_dir), adapter_dir=foreign).has_adapter
    config = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(AdapterMismatchError, match="does not fit") as caught:
        load_model(str(tiny_vlm_dir), adapter_dir=foreign)
    assert caught.value.hint


def test_an_adapter_says_nothing_of_where_it_was_made(
    adapter_dir: Path, tiny_vlm_dir: Path
) -> None:
    for name in ("adapter_config.json", "bye_audit.json"):
        assert str(tiny_vlm_dir.parent) not in (adapter_dir / name).read_text()


def test_a_model_spread_by_accelerate_is_read_alike(tiny_vlm_dir: Path) -> None:
    conversation = draw_conversations(1)[0]
    found = []
    for device in (None, "auto"):
        vlm = load_model(str(tiny_vlm_dir), device=device)
        assert vlm.device.type == "cpu"
        inputs = vlm.encoder.encode(conversation, "none").inputs
        with AttentionProbe(vlm.model) as probe:
            found.append(probe.read(inputs).entropy_NL)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("device", ["cuda:9", "nowhere"])
def test_a_device_that_is_not_there_is_said_so(tiny_vlm_dir: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"no device {device} here") as caught:
        load_model(str(tiny_vlm_dir), device=device)
    assert "--device" in caught.value.hint
