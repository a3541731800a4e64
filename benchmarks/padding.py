"""How much of a training batch is padding: ``python -m benchmarks.padding``.

Counts positions only: no model is run. ``demo`` are the encoded lengths of the demo's captions;
``llava`` are drawn to be like LLaVA-1.5's mixture: 576 image tokens, short questions, two thirds
short answers and one third long conversations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from bye_audit import mini
from bye_audit.mini import dataset
from bye_audit.model.ordering import StepSortedSampler

BATCH = 16
NUM_SAMPLES = 4000


def main() -> None:
    """Print the share of padding by data, order and micro-batch."""
    print("| data | micro-batch | random | sorted in each step | grouped over the dataset |")
    print("| --- | --- | --- | --- | --- |")
    for name, lengths in (("demo", demo_lengths()), ("llava", llava_lengths())):
        for micro_batch in (2, 4, 8, 16):
            shares = [padding_share(lengths, order, micro_batch) for order in orders(lengths)]
            cells = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {name} | {micro_batch} | {cells} |")


def orders(lengths: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Give a random order, the one that is used, and the Trainer's own grouping."""
    totals = [sum(pair) for pair in lengths]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randperm(len(lengths), generator=generator).tolist(),
        list(StepSortedSampler(totals, BATCH, 0)),
        list(LengthGroupedSampler(BATCH, lengths=totals, generator=generator)),
    ]


def padding_share(
    lengths: Sequence[tuple[int, int]], order: Sequence[int], micro_batch: int
) -> float:
    """Share of positions that are padding: prompts and what follows are padded apart."""
    used = padded = 0
    for start in range(0, len(order), micro_batch):
        chosen = [lengths[index] for index in order[start : start + micro_batch]]
        used += sum(prompt + tail for prompt, tail in chosen)
        padded += len(chosen) * (max(p for p, _ in chosen) + max(t for _, t in chosen))
    return 1 - used / padded


def demo_lengths() -> list[tuple[int, int]]:
    """Prompt and rest of the demo's captions, encoded."""
    from bye_audit.model.loading import load_model
    from bye_audit.model.prompts import Conversation

    encoder = load_model(str(mini.model_dir())).encoder
    found = []
    for example in dataset.CaptionedScenes(num_train=1000, num_test=0).train(0):
        messages = [
            {"role": "user", "content": f"<image>\n{example.question}"},
            {"role": "assistant", "content": example.answer},
        ]
        encoding = encoder.encode(Conversation(messages, [example.image]))
        found.append((encoding.prompt_length, len(encoding.continuation_ids)))
    return found


def llava_lengths() -> list[tuple[int, int]]:
    """Draw prompt and rest of a mixture like LLaVA-1.5's."""
    rng = np.random.default_rng(0)
    prompts = 576 + 40 + rng.lognormal(3.0, 0.6, NUM_SAMPLES)
    is_long = rng.random(NUM_SAMPLES) < 1 / 3
    tails = np.where(
        is_long, rng.lognormal(5.3, 0.6, NUM_SAMPLES), rng.lognormal(3.0, 1.2, NUM_SAMPLES)
    )
    return list(zip(prompts.astype(int).tolist(), (tails + 2).astype(int).tolist(), strict=True))


if __name__ == "__main__":
    main()
