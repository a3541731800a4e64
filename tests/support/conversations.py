"""Conversations about small scenes, as models get them."""

from __future__ import annotations

import numpy as np

from bye_audit.mini import scenes
from bye_audit.model.prompts import Conversation


def draw_conversations(count: int, seed: int = 0) -> list[Conversation]:
    """Draw scenes with their captions; every one has the same prompt and another answer."""
    rng = np.random.default_rng(seed)
    drawn = [scenes.draw_scene(rng) for _ in range(count)]
    return [converse(scenes.CAPTION_PROMPT, scenes.caption(s), s.image) for s in drawn]


def converse(question: str, answer: str | None, *images: object) -> Conversation:
    """Make one exchange with the images in front."""
    content = "<image>\n" * len(images) + question
    messages = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return Conversation(messages, images)  # type: ignore[arg-type]
