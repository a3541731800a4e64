"""Scores of many questions about few images, packed and alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.conversations import converse, draw_conversations

from bye_audit.config import ScoreConfig
from bye_audit.errors import ProbeMismatchError
from bye_audit.model import row as row_module
from bye_audit.model.attention import AttentionProbe
from bye_audit.model.check import check_scorer
from bye_audit.model.image_memory import ImageFeatureMemory
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.packing import SharedPrefix
from bye_audit.model.prompts import Conversation
from bye_audit.model.samples import PreparedSample, SampleScore, prepare_sample
from bye_audit.model.scoring import SampleScorer
from conformance.specimen import ZOO, Picture
from conformance.zoo import load_all

QUESTIONS = ("What color?", "Is there a star at the top of it?", "Where?", "How many are there?")
ALONE = ScoreConfig(reuse_prefix=False, batch_tokens=1)


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


def conversations() -> dict[str, Conversation]:
    """Four questions about each of two images, and one about a third."""
    made = {}
    for number, drawn in enumerate(draw_conversations(3)):
        for question in QUESTIONS if number < 2 else QUESTIONS[:1]:
            messages = converse(question, "red star", *drawn.images).messages
            made[f"{number}/{question}"] = Conversation(messages, drawn.images, [f"i{number}"])
    return made


def prepare(vlm: VisionLanguageModel, *, with_answer: bool = True) -> list[PreparedSample]:
    return [
        prepare_sample(vlm.encoder, name, conversation, "first" if with_answer else "none")
        for name, conversation in conversations().items()
    ]


def score(
    vlm: VisionLanguageModel, samples: list[PreparedSample], config: ScoreConfig
) -> dict[str, SampleScore]:
    with SampleScorer(vlm, config) as scorer:
        found = [one for scored in scorer.score(samples) for one in scored]
    assert len(found) == len(samples)
    return {one.sample_id: one for one in found}


@pytest.mark.parametrize("with_answer", [True, False])
@pytest.mark.parametrize("batch_tokens", [None, 120])
def test_questions_packed_behind_an_image_score_as_they_do_alone(
    vlm: VisionLanguageModel, with_answer: bool, batch_tokens: int | None
) -> None:
    samples = prepare(vlm, with_answer=with_answer)
    packed = score(vlm, samples, ScoreConfig(batch_tokens=batch_tokens))
    alone = score(vlm, samples, ALONE)
    for name, one in alone.items():
        assert packed[name].entropy_L == pytest.approx(one.entropy_L, abs=2e-6)
        assert packed[name].image_mass_L == pytest.approx(one.image_mass_L, abs=2e-6)
        np.testing.assert_allclose(packed[name].heads_SLH, one.heads_SLH, atol=1e-5)
        assert packed[name].num_image_tokens == one.num_image_tokens == 81
        assert packed[name].answer_logp == pytest.approx(one.answer_logp, rel=1e-5, nan_ok=True)
        assert np.isfinite(packed[name].answer_logp) == with_answer


def test_an_image_is_computed_once_for_all_its_questions(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = []
    original = SharedPrefix.__init__

    def watch(self: SharedPrefix, *args: Any, **options: Any) -> None:
        prefixes.append(args)
        original(self, *args, **options)

    monkeypatch.setattr(SharedPrefix, "__init__", watch)
    score(vlm, prepare(vlm, with_answer=False), ScoreConfig())
    # One for the comparison, and one for each image with several questions.
    assert len(prefixes) == 3


def test_a_model_whose_questions_change_the_image_is_found_out(
    tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_model(str(tiny_vlm_dir))
    samples = prepare(vlm)
    alone = score(vlm, samples, ALONE)

    def shifted(position_ids: Any, length: int) -> torch.Tensor:
        return torch.full((1, 1), length + 40)

    # As if positions behind the image were not to be had from its own.
    monkeypatch.setattr("bye_audit.model.packing._next_position", shifted)
    with SampleScorer(vlm, ScoreConfig()) as scorer:
        assert scorer.reuses_prefixes
        found = {one.sample_id: one for scored in scorer.score(samples) for one in scored}
        assert not scorer.reuses_prefixes
    for name, one in alone.items():
        assert found[name].entropy_L == pytest.approx(one.entropy_L, abs=2e-6)


def test_only_the_layers_wanted_are_read_and_none_above_them_run(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = vlm.base.get_decoder().layers
    ran = []
    hook = layers[2].register_forward_pre_hook(lambda *_: ran.append(True))
    try:
        config = ScoreConfig(layers=(1,), plausibility=False)
        found = score(vlm, prepare(vlm, with_answer=False), config)
    finally:
        hook.remove()
    assert not ran
    whole = score(vlm, prepare(vlm, with_answer=False), ALONE)
    for name, one in found.items():
        found_L, expected_L = one.entropy_L, whole[name].entropy_L
        assert found_L is not None
        assert expected_L is not None
        assert np.isnan(found_L[[0, 2]]).all()
        assert found_L[1] == pytest.approx(expected_L[1], abs=2e-6)


def test_the_check_trusts_a_probe_that_is_right(vlm: VisionLanguageModel) -> None:
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    with SampleScorer(vlm, ScoreConfig()) as scorer:
        check = check_scorer(vlm, scorer, prepare(vlm)[:4])
    assert check.is_good
    assert check.worst_entropy < 1e-5
    assert "can be trusted: on 4 samples" in str(check)
    assert "float64" in str(check)
    assert vlm.base.config.text_config._attn_implementation == "sdpa"
    for name, weight in vlm.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_the_check_refuses_a_probe_that_reads_something_else(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(call: row_module.AttentionCall, rows_BR: torch.Tensor) -> torch.Tensor:
        return row_module.row_logits(call, rows_BR) * 1.01

    monkeypatch.setattr("bye_audit.model.attention.row_logits", wrong)
    with SampleScorer(vlm, ScoreConfig()) as scorer, pytest.raises(ProbeMismatchError) as caught:
        check_scorer(vlm, scorer, prepare(vlm)[:4])
    assert "cannot be trusted" in str(caught.value)


@pytest.mark.parametrize("part", ["whole", "decoder"])
def test_compiled_models_are_read_alike(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path, part: str
) -> None:
    inputs = {**prepare(vlm)[0].encoding.inputs}  # type: ignore[union-attr]
    with AttentionProbe(vlm.model) as probe:
        expected = probe.read(inputs)
    model = load_model(str(tiny_vlm_dir)).model
    torch._dynamo.reset()
    if part == "whole":
        model = torch.compile(model, backend="eager")
    else:
        model.model.language_model = torch.compile(model.model.language_model, backend="eager")
    with AttentionProbe(model) as probe:
        found = probe.read(inputs)
    np.testing.assert_allclose(found.entropy_NL, expected.entropy_NL, atol=2e-6)


def test_an_image_seen_again_without_packing_is_encoded_once(vlm: VisionLanguageModel) -> None:
    towers = []
    hook = vlm.base.model.vision_tower.register_forward_pre_hook(lambda *_: towers.append(True))
    try:
        found = score(vlm, prepare(vlm), ScoreConfig(reuse_prefix=False, batch_tokens=1))
        assert len(towers) == 2 + 2 + 3, "two checks, and each of three images"
    finally:
        hook.remove()
    for name, one in score(vlm, prepare(vlm)[::-1], ScoreConfig()).items():
        assert found[name].entropy_L == pytest.approx(one.entropy_L, abs=2e-6)


def test_images_of_later_turns_are_not_taken_for_those_of_another_conversation(
    vlm: VisionLanguageModel,
) -> None:
    first, second, third = (drawn.images[0] for drawn in draw_conversations(3))
    config = ScoreConfig(turns="all")
    samples = []
    for name, later in {"i1": second, "i2": third}.items():
        messages = [
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": "<image>\nAnd this?"},
            {"role": "assistant", "content": "blue"},
        ]
        conversation = Conversation(messages, [first, later], ["i0", name])
        samples.append(prepare_sample(vlm.encoder, name, conversation, "all"))
    together = score(vlm, samples, config)
    for sample in samples:
        (alone,) = score(vlm, [sample], config).values()
        (turn,), (expected,) = together[alone.sample_id].later_turns, alone.later_turns
        np.testing.assert_array_equal(turn.entropy_L, expected.entropy_L)
        assert turn.num_image_tokens == 162
    one, other = (scored.later_turns[0].entropy_L for scored in together.values())
    assert not np.allclose(one, other)


@pytest.mark.parametrize("name", ["paligemma", "qwen3_5", "lfm2_vl", "llava_next", "idefics3"])
def test_kept_image_features_change_no_bit(name: str) -> None:
    load_all()
    specimen = ZOO[name]()
    prompts = [specimen.encode([[5, 9], Picture(1), [11, 12, 40 + n]]).inputs for n in range(3)]
    memory = ImageFeatureMemory(specimen.model)
    with AttentionProbe(specimen.model) as probe:
        fresh = [probe.read(prompt) for prompt in prompts]
        for prompt, expected in zip(prompts, fresh, strict=True):
            with memory.about("picture 1"):
                found = probe.read(prompt)
            np.testing.assert_array_equal(found.head_entropy_NLH, expected.head_entropy_NLH)
        other = specimen.encode([[5, 9], Picture(2), [11, 12, 40]]).inputs
        with memory.about("picture 2"):
            found = probe.read(other)
        assert not np.array_equal(found.entropy_NL, fresh[0].entropy_NL, equal_nan=True)
    assert "get_image_features" not in vars(getattr(specimen.model, "model", specimen.model))
