"""Train the embedded model from nothing: ``python -m training.train_mini --out DIR``.

The vision tower has two dense side tasks while it trains: which shape and colour covers each
patch, which shortens the plateau before colour and shape are bound, and redrawing the patch's
pixels, which keeps what the questions do not ask for. The side heads are thrown away.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration

from training.architecture import PATCH_SIZE_PX, build_model, build_processor, build_tokenizer
from training.batches import IGNORED_LABEL, SHAPE_COLOR_CLASSES, PackedBatch, PackedScenes


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--schedule-steps", type=int, default=7000, help="steps to a rate of 0")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train(options)


def train(options: argparse.Namespace) -> None:
    """Run every step, printing a JSON line each hundred and saving each thousand."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    side_heads = SideHeads(model.config.vision_config.hidden_size)
    parameters = [*model.parameters(), *side_heads.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        options.learning_rate,
        total_steps=options.schedule_steps,
        pct_start=0.05,
        anneal_strategy="linear",
    )
    data = PackedScenes(tokenizer, seed=options.seed, batch_size=options.batch_size)
    batches = iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
    started, totals = time.monotonic(), torch.zeros(4)
    for step in range(1, options.steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer, classes, pixels, correct = losses(model, side_heads, next(batches))
        optimizer.zero_grad(set_to_none=True)
        (answer + classes + pixels).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        totals += torch.tensor([x.item() for x in (answer, classes, pixels, correct)])
        if step % 100 == 0:
            print(_log_line(step, totals / 100, time.monotonic() - started), flush=True)
            totals.zero_()
        if step % 1000 == 0:
            model.save_pretrained(options.out)
            build_processor(tokenizer).save_pretrained(options.out)


def _log_line(step: int, mean: Tensor, seconds: float) -> str:
    names = ("answer_loss", "patch_class_loss", "patch_pixel_loss", "answer_token_accuracy")
    figures = {name: round(value, 4) for name, value in zip(names, mean.tolist(), strict=True)}
    return json.dumps({"step": step, **figures, "seconds": round(seconds)})


class SideHeads(nn.Module):
    """Linear readings of the vision tower that only its training needs."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.classes = nn.Linear(hidden_size, SHAPE_COLOR_CLASSES)
        self.pixels = nn.Linear(hidden_size, 3 * PATCH_SIZE_PX**2)


def losses(
    model: LlavaForConditionalGeneration, side_heads: SideHeads, batch: PackedBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Answer loss, the two patch losses and the share of answer tokens predicted right."""
    inner = model.model
    features_BPD = inner.vision_tower(batch.pixels).last_hidden_state[:, 1:]
    classes = F.cross_entropy(
        side_heads.classes(features_BPD).flatten(0, 1), batch.patch_class_BP.flatten()
    )
    cut = F.unfold(batch.pixels, PATCH_SIZE_PX, stride=PATCH_SIZE_PX).transpose(1, 2)
    pixels = F.mse_loss(side_heads.pixels(features_BPD).float(), cut)
    embeds_BSD = inner.get_input_embeddings()(batch.input_ids_BS)
    image_BS = batch.input_ids_BS == model.config.image_token_index
    projected = inner.multi_modal_projector(features_BPD).to(embeds_BSD.dtype)
    embeds_BSD = embeds_BSD.masked_scatter(image_BS[..., None], projected)
    hidden_BSD = inner.language_model(
        inputs_embeds=embeds_BSD,
        attention_mask=segment_mask(batch.segment_BS),
        position_ids=batch.position_ids_BS,
        use_cache=False,
    ).last_hidden_state
    targets = batch.labels_BS[:, 1:]
    chosen = targets != IGNORED_LABEL
    logits = model.lm_head(hidden_BSD[:, :-1][chosen])
    answer = F.cross_entropy(logits, targets[chosen])
    correct = (logits.argmax(-1) == targets[chosen]).float().mean()
    return answer, classes, pixels, correct


def segment_mask(segment_BS: Tensor) -> Tensor:
    """(B, 1, S, S) booleans: causal, own segment and the shared prefix only."""
    same = segment_BS[:, :, None] == segment_BS[:, None, :]
    prefix = segment_BS[:, None, :] == 0
    causal = torch.ones(segment_BS.shape[1], segment_BS.shape[1], dtype=torch.bool).tril()
    return ((same | prefix) & causal)[:, None]


if __name__ == "__main__":
    main()
