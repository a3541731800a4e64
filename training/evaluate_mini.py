"""Measure the embedded model on scenes it was not trained on: ``python -m training.evaluate_mini``.

Prints one JSON object: the share of exactly right answers for every kind of question, over all
questions, and for captions; on the textures of the training and on the unseen ones.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from bye_audit.mini import scenes

HELD_OUT_SEED = 20_000_001
BATCH_SIZE = 50


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("bye_audit/mini/model"))
    parser.add_argument("--num-scenes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    textures = {
        "seen_textures": scenes.TRAINING_TEXTURES,
        "unseen_textures": scenes.UNSEEN_TEXTURES,
    }
    print(
        json.dumps(
            {
                name: accuracy_by_kind(options.model, options.num_scenes, chosen)
                for name, chosen in textures.items()
            },
            indent=1,
        )
    )


def accuracy_by_kind(
    model_dir: Path, num_scenes: int, textures: tuple[str, ...]
) -> dict[str, float]:
    """Share of answers that are right to the letter, by kind of question, in [0, 1]."""
    processor = AutoProcessor.from_pretrained(model_dir)
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32).eval()
    rng = np.random.default_rng(HELD_OUT_SEED)
    asked = []
    for _ in range(num_scenes):
        scene = scenes.draw_scene(rng, textures=textures)
        exchanges = [scenes.ask_caption(scene), *scenes.ask(scene, rng)]
        asked += [(scene.image, exchange) for exchange in exchanges]
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(asked), BATCH_SIZE):
        batch = asked[start : start + BATCH_SIZE]
        inputs = processor(
            images=[image for image, _ in batch],
            text=[_prompt(processor, exchange.question) for _, exchange in batch],
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        answers = processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for (_, exchange), answer in zip(batch, answers, strict=True):
            right[exchange.kind].append(answer.strip() == exchange.answer)
    answers_right = [ok for kind, values in right.items() if kind != "caption" for ok in values]
    accuracy = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
    return {"all_questions": float(np.mean(answers_right)), **accuracy}


def _prompt(processor: AutoProcessor, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


if __name__ == "__main__":
    main()
