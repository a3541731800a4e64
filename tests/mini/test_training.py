"""The embedded model's training: what a batch holds and what its loss averages over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from bye_audit.mini import scenes
from training.architecture import build_model, build_tokenizer
from training.batches import IGNORED_LABEL, PackedBatch, pack_scenes
from training.train_mini import UnusedTokens, answer_loss, segment_mask


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(num_scenes=300)


@pytest.fixture
def drawn() -> list[scenes.Scene]:
    rng = np.random.default_rng(3)
    return [scenes.draw_scene(rng) for _ in range(4)]


@pytest.fixture
def batch(drawn: list[scenes.Scene], tokenizer: PreTrainedTokenizerFast) -> PackedBatch:
    return pack_scenes(drawn, np.random.default_rng(4), tokenizer, questions_per_kind=2)


def read(
    tokenizer: PreTrainedTokenizerFast, batch: PackedBatch, row: int, segment: int, *, answer: bool
) -> str:
    is_answer_S = batch.labels_BS[row] != IGNORED_LABEL
    chosen = (batch.segment_BS[row] == segment) & (is_answer_S == answer)
    text: str = tokenizer.decode(batch.input_ids_BS[row][chosen], skip_special_tokens=True)
    return text.strip()


def test_a_question_points_at_patches_of_the_object_it_names(
    drawn: list[scenes.Scene], batch: PackedBatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    names = [f"{color} {shape}" for shape in scenes.SHAPES for color in scenes.COLORS]
    asked = batch.asked
    num_named = 0
    for row, position, patches_P in zip(
        asked.row_Q.tolist(), asked.position_Q.tolist(), asked.patches_QP.bool(), strict=True
    ):
        assert tokenizer.decode(batch.input_ids_BS[row, position]) == "<|assistant|>"
        assert batch.labels_BS[row, position + 1] != IGNORED_LABEL, "the answer follows"
        found = set((batch.patch_class_BP[row][patches_P] - 1).tolist())
        segment = int(batch.segment_BS[row, position])
        question = read(tokenizer, batch, row, segment, answer=False)
        named = [name for name in names if name in question]
        if named:
            num_named += 1
            assert found == {names.index(named[0])}
    assert num_named >= len(drawn)


def test_questions_do_not_see_each_other(batch: PackedBatch) -> None:
    allowed = segment_mask(batch.segment_BS)[0, 0]
    segment_S = batch.segment_BS[0]
    for query, key in np.ndindex(*allowed.shape):
        if allowed[query, key] and segment_S[query] > 0:
            assert key <= query
            assert segment_S[key] in (0, segment_S[query])


def test_the_loss_averages_over_answers_and_not_over_tokens(
    drawn: list[scenes.Scene], batch: PackedBatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = build_model(tokenizer)
    hidden_BSD = torch.randn(*batch.input_ids_BS.shape, model.config.text_config.hidden_size)
    loss, right = answer_loss(model, hidden_BSD, batch, is_per_answer=True)
    losses = []
    for row in range(len(drawn)):
        for segment in range(1, int(batch.segment_BS[row].max()) + 1):
            is_answer_S = (batch.segment_BS[row] == segment) & (
                batch.labels_BS[row] != IGNORED_LABEL
            )
            positions = is_answer_S.nonzero()[:, 0]
            logits = model.lm_head(hidden_BSD[row, positions - 1])
            losses.append(cross_entropy(logits, batch.labels_BS[row, positions]).item())
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert right["questions_right"].item() == 0, "noise answers nothing"


def test_tokens_that_the_world_never_says_stay_where_they_are(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.manual_seed(0)
    model = build_model(tokenizer)
    unused = UnusedTokens(model, tokenizer)
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    unused.restore()
    is_kept = (weight == before).all(dim=1)
    letter, word, special = tokenizer.convert_tokens_to_ids(["B", "Ġred", "<|user|>"])
    assert is_kept[letter]
    assert not is_kept[word]
    assert not is_kept[special]
