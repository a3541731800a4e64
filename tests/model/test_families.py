"""From a conversation to a score, through the processors of real checkpoints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from support.conversations import converse
from support.real_processors import FAMILIES, open_family

from bye_audit.config import ScoreConfig
from bye_audit.errors import UnsupportedModelError
from bye_audit.model.check import check_scorer
from bye_audit.model.decoder import view_decoder
from bye_audit.model.loading import VisionLanguageModel
from bye_audit.model.prompts import Conversation
from bye_audit.model.samples import PreparedSample, prepare_sample
from bye_audit.model.scoring import SampleScorer

# PaliGemma's processor makes an array of a tensor in a way that numpy will change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHARES_PREFIX = {"qwen2_5_vl", "llava_next", "gemma3", "idefics3", "internvl"}


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return open_family(request.param)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def prepare(vlm: VisionLanguageModel) -> list[PreparedSample]:
    """Three questions about a square picture, one about a wide one, one about both."""
    square, wide = picture(0, (40, 40)), picture(1, (90, 40))
    asked: dict[str, Conversation] = {
        f"square/{question}": Conversation(
            converse(question, "a red star", square).messages, [square], ["square"]
        )
        for question in ("What color is it?", "Is there a star?", "How many?")
    }
    asked["wide"] = Conversation(converse("What?", "two", wide).messages, [wide], ["wide"])
    both = converse("Which is larger?", "the wide one", square, wide).messages
    asked["both"] = Conversation(both, [square, wide], ["square", "wide"])
    prepared = [prepare_sample(vlm.encoder, name, one, "first") for name, one in asked.items()]
    assert all(sample.aside is None for sample in prepared), [s.aside for s in prepared]
    return prepared


def test_scores_are_those_of_eager_attention(vlm: VisionLanguageModel) -> None:
    samples = prepare(vlm)
    with SampleScorer(vlm, ScoreConfig()) as scorer:
        check = check_scorer(vlm, scorer, samples)
        assert scorer.reuses_prefixes == (vlm.name in SHARES_PREFIX)
    assert check.num_samples == len(samples)
    assert check.worst_entropy < 2e-5
    assert check.worst_mass < 1e-5


def test_answers_do_not_reach_into_the_prompt(vlm: VisionLanguageModel) -> None:
    square = picture(0, (40, 40))
    long = Conversation(converse("What?", "a star, " * 6, square).messages, [square])
    short = Conversation(converse("What?", "no", square).messages, [square])
    prompts = [vlm.encoder.encode(one, "first") for one in (long, short)]
    for name, value in prompts[0].inputs.items():
        assert (value == prompts[1].inputs[name]).all(), name
    assert prompts[0].continuation_ids != prompts[1].continuation_ids


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"mllama"}))
def test_padded_batches_score_as_prompts_do_alone(name: str) -> None:
    vlm = open_family(name)
    assert view_decoder(vlm.model).takes_batches
    samples = prepare(vlm)
    encodings = [s.encoding for s in samples if s.encoding is not None]
    batch = vlm.encoder.collate(encodings, with_answers=True)
    with SampleScorer(vlm, ScoreConfig(reuse_prefix=False)) as scorer:
        together = scorer.probe.read(
            batch.inputs, rows_BR=batch.last_rows, system_BS=batch.system_BS
        )
        for row, encoding in enumerate(encodings):
            alone = scorer.probe.read(encoding.inputs)
            np.testing.assert_allclose(
                together.entropy_NL[row], alone.entropy_NL[0], atol=1e-5, equal_nan=True
            )
            assert together.num_image_tokens_N[row] == alone.num_image_tokens_N[0]


def test_a_model_whose_prompts_look_ahead_is_not_scored_with_answers() -> None:
    vlm = open_family("paligemma")
    samples = [
        dataclasses.replace(s, encoding=dataclasses.replace(s.encoding, answer_type=0))
        for s in prepare(vlm)
        if s.encoding is not None
    ]
    with (
        SampleScorer(vlm, ScoreConfig()) as scorer,
        pytest.raises(UnsupportedModelError, match="look ahead") as caught,
    ):
        list(scorer.score(samples))
    assert "--no-plausibility" in caught.value.hint
