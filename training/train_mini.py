"""Train the embedded model from nothing: ``python -m training.train_mini --out DIR``.

Three side tasks help it over plateaus that the answers alone leave late or never. The vision tower
tells which shape and colour covers each patch, and redraws the patch's pixels, which keeps what no
question asks for. The decoder, before it answers, points at the patches of the object that the
question means. The side heads are thrown away. A phase whose folder is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from training.architecture import (
    NUM_IMAGE_TOKENS,
    PATCH_SIZE_PX,
    build_model,
    build_processor,
    build_tokenizer,
    world_sentences,
)
from training.batches import (
    CAPTION_SEGMENT,
    FIRST_IMAGE_POSITION,
    IGNORED_LABEL,
    SHAPE_COLOR_CLASSES,
    PackedBatch,
    PackedScenes,
)

LOG_EVERY = 100
POINTING_LAYER = 2
"""Decoder layers that have run when the pointing is read; the rest have the answer to find."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of the training with a warm-up and an optimizer of its own."""

    name: str
    first_batch: int
    """Where in the endless stream of batches it begins."""
    steps: int
    schedule_steps: int
    """After which the learning rate, falling on a line, would be 0."""
    learning_rate: float
    questions_per_kind: int = 2
    is_loss_per_answer: bool = True
    """Whether answers of one word count as much as captions of twenty."""
    pointing_weight: float = 0.0
    is_unused_vocabulary_kept: bool = False
    """Whether tokens that the world never says stay distinct: see :class:`UnusedTokens`."""


PHASES = (
    Phase(
        name="seeing",
        first_batch=0,
        steps=4000,
        schedule_steps=7000,
        learning_rate=1.5e-3,
        questions_per_kind=1,
        is_loss_per_answer=False,
    ),
    Phase(name="answering", first_batch=4000, steps=1000, schedule_steps=5000, learning_rate=1e-3),
    Phase(
        name="pointing",
        first_batch=4500,
        steps=3500,
        schedule_steps=5000,
        learning_rate=1e-3,
        pointing_weight=0.5,
    ),
    Phase(
        name="settling",
        first_batch=8000,
        steps=1500,
        schedule_steps=1500,
        learning_rate=4e-4,
        pointing_weight=0.5,
        is_unused_vocabulary_kept=True,
    ),
)


def main() -> None:
    """Read the command line and run the phases that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets one model folder a phase")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before = None
    for phase in PHASES:
        folder = options.out / phase.name
        if not folder.exists():
            train(phase, before, folder, options)
        before = folder


def train(phase: Phase, before: Path | None, out: Path, options: argparse.Namespace) -> None:
    """Run a phase from the last one's model, printing a JSON line each hundred steps."""
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer) if before is None else load(before)
    side_heads = SideHeads(
        model.config.vision_config.hidden_size, model.config.text_config.hidden_size
    )
    parameters = [*model.parameters(), *side_heads.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=phase.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        phase.learning_rate,
        total_steps=phase.schedule_steps,
        pct_start=0.05,
        anneal_strategy="linear",
    )
    data = PackedScenes(
        tokenizer,
        seed=options.seed,
        batch_size=options.batch_size,
        questions_per_kind=phase.questions_per_kind,
        first_batch=phase.first_batch,
    )
    batches = iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
    unused = UnusedTokens(model, tokenizer) if phase.is_unused_vocabulary_kept else None
    started, totals = time.monotonic(), Counter[str]()
    for step in range(1, phase.steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, figures = measure(model, side_heads, next(batches), phase)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if unused is not None:
            unused.restore()
        totals.update(figures)
        if step % LOG_EVERY == 0:
            means = {name: round(total / LOG_EVERY, 4) for name, total in totals.items()}
            seconds = round(time.monotonic() - started)
            line = {"phase": phase.name, "step": step, **means, "seconds": seconds}
            print(json.dumps(line), flush=True)
            totals.clear()
    model.save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)


class UnusedTokens:
    """Keep apart the tokens that no sentence of the world holds.

    Training only ever tells them what they are not, all in the same words, until letters that the
    world does not use are one: a model fine-tuned on other text then cannot spell it. So they get
    random embeddings of the used ones' size, and the rest of the model learns to live with them.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self._weight = model.get_input_embeddings().weight
        is_unused = torch.ones(len(self._weight), dtype=torch.bool)
        is_unused[tokenizer.all_special_ids] = False
        for sentence in world_sentences():
            is_unused[tokenizer.encode(sentence, add_special_tokens=False)] = False
        self._ids = is_unused.nonzero()[:, 0]
        spread = float(self._weight.detach()[~is_unused].std())
        self._kept = torch.randn(len(self._ids), self._weight.shape[1]) * spread
        self.restore()

    def restore(self) -> None:
        """Undo what a step did to them."""
        with torch.no_grad():
            self._weight[self._ids] = self._kept


def load(folder: Path) -> LlavaForConditionalGeneration:
    """Open an earlier phase's model."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


class SideHeads(nn.Module):
    """Linear readings of hidden states that only the training needs."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.classes = nn.Linear(vision_size, SHAPE_COLOR_CLASSES)
        self.pixels = nn.Linear(vision_size, 3 * PATCH_SIZE_PX**2)
        self.pointing = nn.Linear(text_size, text_size, bias=False)


def measure(
    model: LlavaForConditionalGeneration, side_heads: SideHeads, batch: PackedBatch, phase: Phase
) -> tuple[Tensor, dict[str, float]]:
    """Give the loss to go down and the figures of this step for the log."""
    features_BPD = model.model.vision_tower(batch.pixels).last_hidden_state[:, 1:]
    classes, pixels = tower_losses(side_heads, features_BPD, batch)
    hidden_states = run_decoder(model, features_BPD, batch)
    share_Q = share_pointed_at(side_heads, hidden_states[POINTING_LAYER], batch)
    pointing = -(share_Q + 1e-4).log().mean()
    answer, right = answer_loss(
        model, hidden_states[-1], batch, is_per_answer=phase.is_loss_per_answer
    )
    figures = {
        "answer_loss": answer,
        "patch_class_loss": classes,
        "patch_pixel_loss": pixels,
        "share_pointed_at_asked": share_Q.mean(),
        **right,
    }
    loss = answer + classes + pixels + phase.pointing_weight * pointing
    return loss, {name: figure.item() for name, figure in figures.items()}


def tower_losses(
    side_heads: SideHeads, features_BPD: Tensor, batch: PackedBatch
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each patch's class and squared error of its pixels."""
    classes = F.cross_entropy(
        side_heads.classes(features_BPD).flatten(0, 1), batch.patch_class_BP.flatten()
    )
    cut = F.unfold(batch.pixels, PATCH_SIZE_PX, stride=PATCH_SIZE_PX).transpose(1, 2)
    return classes, F.mse_loss(side_heads.pixels(features_BPD).float(), cut)


def run_decoder(
    model: LlavaForConditionalGeneration, features_BPD: Tensor, batch: PackedBatch
) -> tuple[Tensor, ...]:
    """Hidden states (B, S, D) before every layer and after the last."""
    inner = model.model
    embeds_BSD = inner.get_input_embeddings()(batch.input_ids_BS)
    image_BS = batch.input_ids_BS == model.config.image_token_index
    projected = inner.multi_modal_projector(features_BPD).to(embeds_BSD.dtype)
    hidden_states: tuple[Tensor, ...] = inner.language_model(
        inputs_embeds=embeds_BSD.masked_scatter(image_BS[..., None], projected),
        attention_mask=segment_mask(batch.segment_BS),
        position_ids=batch.position_ids_BS,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    return hidden_states


def share_pointed_at(side_heads: SideHeads, hidden_BSD: Tensor, batch: PackedBatch) -> Tensor:
    """Share (Q,) of the pointing that falls on the patches of the object meant, in [0, 1]."""
    asked = batch.asked
    image = slice(FIRST_IMAGE_POSITION, FIRST_IMAGE_POSITION + NUM_IMAGE_TOKENS)
    query_QD = side_heads.pointing(hidden_BSD[asked.row_Q, asked.position_Q])
    patches_QPD = hidden_BSD[:, image][asked.row_Q]
    logits_QP = torch.einsum("qd,qpd->qp", query_QD, patches_QPD).float()
    weights_QP = (logits_QP / math.sqrt(hidden_BSD.shape[-1])).softmax(dim=-1)
    return (weights_QP * asked.patches_QP).sum(dim=-1)


def answer_loss(
    model: LlavaForConditionalGeneration,
    hidden_BSD: Tensor,
    batch: PackedBatch,
    *,
    is_per_answer: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy averaged over answers or over their tokens, and the shares of answers right.

    Over tokens, a caption of twenty drowns the answers of one word.
    """
    targets = batch.labels_BS[:, 1:]
    chosen = targets != IGNORED_LABEL
    logits = model.lm_head(hidden_BSD[:, :-1][chosen])
    token_loss = F.cross_entropy(logits, targets[chosen], reduction="none").float()
    token_right = (logits.argmax(-1) == targets[chosen]).float()
    row = torch.arange(len(targets))[:, None].expand_as(targets)[chosen]
    segments, answer_of_token = torch.unique(
        torch.stack([row, batch.segment_BS[:, 1:][chosen]]), dim=1, return_inverse=True
    )
    empty = torch.zeros(segments.shape[1])
    loss = empty.index_add(0, answer_of_token, token_loss) / answer_of_token.bincount()
    is_right = (empty + 1).scatter_reduce(0, answer_of_token, token_right, "amin")
    is_caption = segments[1] == CAPTION_SEGMENT
    right = {
        "questions_right": is_right[~is_caption].mean(),
        "captions_right": is_right[is_caption].mean(),
    }
    return (loss if is_per_answer else token_loss).mean(), right


def segment_mask(segment_BS: Tensor) -> Tensor:
    """(B, 1, S, S) booleans: causal, own segment and the shared prefix only."""
    same = segment_BS[:, :, None] == segment_BS[:, None, :]
    prefix = segment_BS[:, None, :] == 0
    causal = torch.ones(segment_BS.shape[1], segment_BS.shape[1], dtype=torch.bool).tril()
    return ((same | prefix) & causal)[:, None]


if __name__ == "__main__":
    main()
