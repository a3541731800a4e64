from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.conversations import converse, draw_conversations

from bye_audit.config import FinetuneConfig
from bye_audit.errors import (
    FinetuneDivergedError,
    InterruptedStageError,
    ModelError,
    StorageError,
)
from bye_audit.model.likelihood import answer_log_likelihood
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.lora import train_lora

FAST = FinetuneConfig(epochs=2, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=8)


@pytest.fixture
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


class InterruptingProgress:
    """Acts like a user who presses Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.done = 0

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "samples"
    ) -> Iterator[InterruptingProgress]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if self.done == self.after:
            os.kill(os.getpid(), signal.SIGINT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def test_training_makes_the_answers_likelier_and_leaves_the_base_as_it_was(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    conversations = draw_conversations(8)
    before = answer_log_likelihood(vlm, conversations)
    outcome = train_lora(vlm, conversations, FAST, tmp_path)
    assert outcome.num_steps == 4
    assert (outcome.num_used, outcome.num_left_out) == (8, 0)
    after = answer_log_likelihood(vlm, conversations)
    assert (after > before + 0.1).all()
    base = answer_log_likelihood(vlm, conversations, use_adapter=False)
    np.testing.assert_array_equal(base, before)


def test_only_decoder_adapters_and_the_projector_are_trained(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    outcome = train_lora(vlm, draw_conversations(4), FAST, tmp_path)
    assert outcome.projector == "model.multi_modal_projector"
    names = list(weights(tmp_path))
    assert sum(weight.numel() for weight in weights(tmp_path).values()) == (
        outcome.num_trained_weights
    )
    lora = [name for name in names if "lora_" in name]
    # Seven linear layers in each of three decoder layers, two matrices each.
    assert len(lora) == 3 * 7 * 2
    assert all("language_model" in name for name in lora)
    rest = set(names) - set(lora)
    assert rest
    assert all("multi_modal_projector" in name for name in rest)


def test_the_projector_stays_when_it_is_not_to_be_trained(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    config = dataclasses.replace(FAST, train_projector=False)
    assert train_lora(vlm, draw_conversations(4), config, tmp_path).projector is None
    assert all("lora_" in name for name in weights(tmp_path))


def test_an_adapter_reloads_as_it_was_trained_and_comes_off_without_trace(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path, tmp_path: Path
) -> None:
    conversations = draw_conversations(4)
    before = answer_log_likelihood(vlm, conversations)
    outcome = train_lora(vlm, conversations, FAST, tmp_path)
    reloaded = load_model(str(tiny_vlm_dir), adapter_dir=tmp_path)
    assert reloaded.adapter_digest == outcome.adapter_digest == vlm.adapter_digest
    np.testing.assert_array_equal(
        answer_log_likelihood(reloaded, conversations), answer_log_likelihood(vlm, conversations)
    )
    reloaded.drop_adapter()
    assert not reloaded.has_adapter
    np.testing.assert_array_equal(answer_log_likelihood(reloaded, conversations), before)


def test_the_same_seed_trains_the_same_adapter(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    conversations = draw_conversations(8)
    digests = [
        train_lora(vlm, conversations, dataclasses.replace(FAST, seed=seed), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0].adapter_digest == digests[1].adapter_digest
    assert digests[0].adapter_digest != digests[2].adapter_digest


def test_gradient_accumulation_changes_nothing_but_memory(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    conversations = draw_conversations(8)
    whole = train_lora(vlm, conversations, FAST, tmp_path / "whole")
    config = dataclasses.replace(FAST, micro_batch_size=2)
    parts = train_lora(vlm, conversations, config, tmp_path / "parts")
    assert parts.num_steps == whole.num_steps
    for one, other in zip(whole.loss_curve, parts.loss_curve, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_gradient_checkpointing_computes_twice_and_arrives_at_the_same_place(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    conversations = draw_conversations(8)
    num_calls, losses = [], []
    for is_on in (False, True):
        calls: list[int] = []
        layer = vlm.base.get_decoder().layers[0]
        # On entry: the second time it is left as soon as the last kept tensor is there again.
        handle = layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        config = dataclasses.replace(FAST, gradient_checkpointing=is_on)
        outcome = train_lora(vlm, conversations, config, tmp_path / str(is_on))
        handle.remove()
        num_calls.append(len(calls))
        losses.append([point.loss for point in outcome.loss_curve])
    assert num_calls == [4, 8]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_ctrl_c_keeps_the_steps_done_and_the_next_call_ends_as_if_uninterrupted(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    conversations = draw_conversations(12)
    straight = train_lora(vlm, conversations, FAST, tmp_path / "straight")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedStageError, match="stopped at step 3") as caught:
        train_lora(vlm, conversations, FAST, tmp_path / "split", InterruptingProgress(3))
    assert "same command" in caught.value.hint
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "split" / "adapter_model.safetensors").exists()
    resumed = train_lora(vlm, conversations, FAST, tmp_path / "split")
    assert resumed.resumed_from_step == 3
    assert resumed.num_steps == straight.num_steps == 6
    assert len(resumed.loss_curve) == len(straight.loss_curve)
    expected = weights(tmp_path / "straight")
    for name, weight in weights(tmp_path / "split").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    assert not (tmp_path / "split" / "checkpoints").exists()


def test_a_checkpoint_killed_while_it_was_written_is_passed_over(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    torn = tmp_path / "checkpoints" / "checkpoint-3"
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_text('{"global_step": 3')
    outcome = train_lora(vlm, draw_conversations(8), FAST, tmp_path)
    assert outcome.resumed_from_step == 0


def test_checkpoints_are_written_by_the_clock(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    config = dataclasses.replace(FAST, checkpoint_seconds=0.0)
    seen = []

    class Looking(InterruptingProgress):
        def advance(self, amount: int = 1, note: str = "") -> None:
            seen.append(sorted(path.name for path in tmp_path.glob("checkpoints/*")))

    train_lora(vlm, draw_conversations(8), config, tmp_path, Looking(0))
    assert seen[-1] == ["checkpoint-3"]


def test_samples_that_cannot_be_learnt_are_left_out_and_counted(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    good = draw_conversations(3)
    without_answer = converse("What is it?", None, *good[0].images)
    too_long = converse("What is it?", "red " * 300, *good[0].images)
    text_only = converse("Say yes.", "yes")
    config = dataclasses.replace(FAST, max_length=200, batch_size=2)
    outcome = train_lora(vlm, [without_answer, *good, too_long, text_only], config, tmp_path)
    assert (outcome.num_used, outcome.num_left_out) == (4, 2)
    assert all(math.isfinite(point.loss) for point in outcome.loss_curve)


def test_nothing_to_learn_from_is_an_error(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="None of the 1 samples") as caught:
        train_lora(vlm, [converse("What?", None)], FAST, tmp_path)
    assert "answer" in caught.value.hint


def test_a_diverging_loss_stops_training_and_says_how_to_go_on(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    config = dataclasses.replace(FAST, learning_rate=1e30, epochs=20)
    with pytest.raises(FinetuneDivergedError, match="became") as caught:
        train_lora(vlm, draw_conversations(4), config, tmp_path)
    assert "--learning-rate" in caught.value.hint


@pytest.mark.parametrize("seconds", [0.0, 1000.0], ids=["checkpoint", "adapter"])
def test_a_full_disk_ends_in_a_sentence_and_keeps_earlier_checkpoints(
    vlm: VisionLanguageModel, tmp_path: Path, seconds: float
) -> None:
    config = dataclasses.replace(FAST, checkpoint_seconds=seconds)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written") as caught:
            train_lora(vlm, draw_conversations(8), config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Free some space" in caught.value.hint
    assert train_lora(vlm, draw_conversations(8), config, tmp_path).num_steps == 4


def test_the_card_names_the_base_model(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    train_lora(vlm, draw_conversations(4), FAST, tmp_path)
    card = json.loads((tmp_path / "bye_audit.json").read_text())
    assert card["base_digest"] == vlm.digest
