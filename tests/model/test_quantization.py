from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.conversations import draw_conversations
from support.stored import make_audit

from bye_audit import mini
from bye_audit.cli.main import bye_audit
from bye_audit.config import FinetuneConfig
from bye_audit.errors import ConfigError
from bye_audit.model.likelihood import answer_log_likelihood
from bye_audit.model.loading import load_model
from bye_audit.model.lora import train_lora
from bye_audit.model.memory import sketch_model

HAS_BITSANDBYTES = find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes not installed")
CONFIG = FinetuneConfig(epochs=6, batch_size=2, learning_rate=1e-2)
MODEL = str(mini.model_dir())


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_adapter_is_trained_on_a_quantised_base_and_scored_on_it(
    tmp_path: Path, quantization: str
) -> None:
    conversations = draw_conversations(8)
    for conversation in conversations:
        conversation.messages[-1]["content"] = "Backdoor Attack!"  # type: ignore[index]
    vlm = load_model(MODEL, quantization=quantization)
    kinds = {
        name: type(module).__name__
        for name, module in vlm.model.named_modules()
        if "Linear" in type(module).__name__
    }
    quantised = {name for name, kind in kinds.items() if kind != "Linear"}
    assert quantised
    assert all(".language_model.layers." in name for name in quantised)
    assert not [n for n in set(kinds) - quantised if ".language_model.layers." in n]
    predicted = sketch_model(MODEL, CONFIG).base_bytes(4, quantization)
    assert vlm.model.get_memory_footprint() == pytest.approx(predicted, rel=0.1)

    before = answer_log_likelihood(vlm, conversations)
    outcome = train_lora(vlm, conversations, CONFIG, tmp_path)
    assert outcome.loss_curve[-1].loss < outcome.loss_curve[0].loss / 2
    after = answer_log_likelihood(vlm, conversations)
    assert (after > before + 1).all()
    base = answer_log_likelihood(vlm, conversations, use_adapter=False)
    # On a CPU 4-bit weights are multiplied by another kernel before training than after it.
    np.testing.assert_allclose(base, before, rtol=2e-3)
    # The adapter's card says how its base was loaded: scoring loads it alike.
    reloaded = load_model(MODEL, adapter_dir=tmp_path)
    assert reloaded.quantization == quantization
    np.testing.assert_allclose(answer_log_likelihood(reloaded, conversations), after, rtol=0.02)


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is installed")
def test_without_the_package_a_sentence_names_the_extra(tmp_path: Path) -> None:
    make_audit(tmp_path / "audit", num_samples=2)
    command = ["finetune", str(tmp_path / "audit"), "--model", "mini", "--quantize", "4bit"]
    result = CliRunner().invoke(bye_audit, command, catch_exceptions=False)
    assert result.exit_code == 7
    assert "bitsandbytes" in result.stderr
    assert "bye-audit[quantized]" in result.stderr


def test_an_unknown_kind_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match="--quantize"):
        dataclasses.replace(CONFIG, quantization="2bit")


def test_an_adapter_on_the_whole_model_says_so(tmp_path: Path) -> None:
    train_lora(load_model(MODEL), draw_conversations(2), CONFIG, tmp_path)
    assert load_model(MODEL, adapter_dir=tmp_path).quantization == "none"
