from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import converse, draw_conversations
from support.stored import make_audit

from benchmarks.padding import llava_lengths, padding_share
from bye_audit.finetune import StoredConversations
from bye_audit.model.loading import load_model
from bye_audit.model.ordering import StepSortedSampler
from bye_audit.model.training_data import TrainingSamples

LENGTHS = st.lists(st.integers(0, 500), max_size=80)


@given(lengths=LENGTHS, batch_size=st.integers(1, 20), seed=st.integers(0, 99))
def test_every_sample_comes_once_and_steps_stand_by_length(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    order = list(StepSortedSampler(lengths, batch_size, seed))
    assert sorted(order) == list(range(len(lengths)))
    for start in range(0, len(order), batch_size):
        step = [lengths[index] for index in order[start : start + batch_size]]
        assert step == sorted(step, reverse=True)


@given(lengths=LENGTHS, other=LENGTHS, seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_lengths_choose_nothing_about_what_is_in_a_step(
    lengths: list[int], other: list[int], seed: int, epoch: int
) -> None:
    size = min(len(lengths), len(other))
    samplers = [StepSortedSampler(some[:size], 8, seed) for some in (lengths, other)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    orders = [list(sampler) for sampler in samplers]
    for start in range(0, size, 8):
        assert set(orders[0][start : start + 8]) == set(orders[1][start : start + 8])


def test_each_epoch_has_an_order_of_its_own_and_the_same_seed_the_same() -> None:
    sampler, again = StepSortedSampler([1] * 50, 4, 3), StepSortedSampler([1] * 50, 4, 3)
    first = list(sampler)
    assert first == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_less_is_padded_where_steps_are_cut() -> None:
    lengths = llava_lengths()
    totals = [sum(pair) for pair in lengths]
    random = list(StepSortedSampler([0] * len(totals), 16, 0))
    ordered = list(StepSortedSampler(totals, 16, 0))
    assert padding_share(lengths, ordered, 4) < padding_share(lengths, random, 4) / 1.5
    assert padding_share(lengths, ordered, 16) == pytest.approx(padding_share(lengths, random, 16))


def test_lengths_are_read_without_encoding_anything(tmp_path: Path, tiny_vlm_dir: Path) -> None:
    tables = make_audit(tmp_path / "audit", num_samples=3)
    encoder = load_model(str(tiny_vlm_dir)).encoder
    stored = StoredConversations(tables)
    expected = [sum(len(t["content"]) for t in stored[i].messages) for i in range(3)]
    assert TrainingSamples(encoder, stored, 100).text_lengths() == expected
    listed = [converse("abc", "de"), *draw_conversations(1)]
    assert TrainingSamples(encoder, listed, 100).text_lengths()[0] == 5
