from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.model.encodings import Encoding
from bye_audit.model.grouping import batch_by_length, group_by_prefix


def encoding(ids: list[int], image_end: int, images: tuple[str, ...], answer: int = 0) -> Encoding:
    return Encoding(
        {"input_ids": torch.tensor([ids])},
        system_length=0,
        image_end=image_end,
        image_ids=images,
        continuation_ids=[1] * answer,
        labels=[1] * answer,
    )


def test_only_prompts_equal_to_the_end_of_the_same_image_share() -> None:
    shown = [
        encoding([5, 9, 9, 1], 3, ("a",)),
        encoding([5, 9, 9, 2, 3], 3, ("a",)),
        encoding([5, 9, 9, 2], 3, ("b",)),
        encoding([6, 9, 9, 2], 3, ("a",)),
        encoding([5, 9, 9], 3, ("a",)),
        encoding([5, 9, 9, 4], 3, ()),
    ]
    assert group_by_prefix(shown) == [[0, 1]]


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8)), max_size=25)


@given(lengths, st.integers(1, 90), st.booleans())
def test_batches_hold_each_prompt_once_within_the_budget(
    sizes: list[tuple[int, int]], max_tokens: int, pads: bool
) -> None:
    encodings = [encoding([7] * prompt, 0, (), answer) for prompt, answer in sizes]
    chosen = range(0, len(encodings), 2)
    batches = list(batch_by_length(encodings, chosen, max_tokens, pads=pads))
    assert sorted(i for batch in batches for i in batch) == list(chosen)
    for batch in batches:
        prompts = {encodings[i].prompt_length for i in batch}
        longest = max(encodings[i].length for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= max_tokens
        assert pads or len(prompts) == 1
