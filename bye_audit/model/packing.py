"""Many questions about one image: what stands before them is computed once, they ride on it.

The prompt up to the end of its last image is run once and its keys and values are kept. The
questions behind it are laid end to end in one row, under a mask in which each sees the image's part
and itself, and with positions as if each stood there alone.

Shape legend: P prefix positions, Q positions of all questions, K = P + Q keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bye_audit.model.attention import AttentionProbe, AttentionReading, RowRequest
from bye_audit.model.decoder import Inputs
from bye_audit.model.spans import watching_decoder_input

# Their rotation depends on the length of the whole prompt, so no part of one can be kept.
_ROPE_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Question:
    """What follows the shared part of a prompt."""

    prompt_ids: Sequence[int]
    """To the end of the prompt; at least one."""
    answer_ids: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Positions."""
        return len(self.prompt_ids) + len(self.answer_ids)


def can_pack(probe: AttentionProbe) -> bool:
    """Whether nothing in the model's build speaks against questions riding on one prefix.

    Necessary, not sufficient: a model whose questions look back into its image (PaliGemma) is only
    found out by comparing, which a scorer does on the first questions it could pack.
    """
    view, base = probe.view, probe.base
    text = base.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    ropes = [rope, *(value for value in rope.values() if isinstance(value, Mapping))]
    return (
        view.has_prompt_axis
        # A recurrent layer would carry one question's words into the next.
        and len(view.modules) == view.num_layers
        and {"past_key_values", "position_ids"} <= view.forward_names
        and all(
            module.config._attn_implementation in (None, "eager", "sdpa")
            for module in view.modules.values()
        )
        and "chunked_attention" not in (getattr(text, "layer_types", None) or ())
        and not any(part.get("rope_type") in _ROPE_BY_LENGTH for part in ropes)
        and not hasattr(probe.model, "_orig_mod")
    )


def prefix_inputs(inputs: Inputs, length: int) -> dict[str, Any]:
    """Model input of a prompt's first ``length`` positions, with all its images."""
    shape = inputs["input_ids"].shape
    return {
        name: value[:, :length] if value.shape == shape else value for name, value in inputs.items()
    }


class SharedPrefix:
    """The part that prompts have in common, run once.

    Parameters
    ----------
    probe
        Open.
    inputs
        The prefix as model input, batch of one.
    system_length
        Positions before anything a user said.
    is_deep
        Whether the questions will want logits, so that no layer may be left out.
    """

    def __init__(
        self, probe: AttentionProbe, inputs: Inputs, system_length: int, *, is_deep: bool
    ) -> None:
        self._probe = probe
        self._is_deep = is_deep
        self._cache = DynamicCache()
        self._length = int(inputs["input_ids"].shape[1])
        self._system_length = system_length
        request = probe.make_request(inputs, torch.empty(1, 0, dtype=torch.long), stops_early=True)
        if is_deep:
            request.stop_layer = max(probe.view.modules)
        positions: list[Any] = []
        with watching_decoder_input(
            probe.base,
            "decoder",
            lambda _embeds, kwargs: positions.append(kwargs.get("position_ids")),
        ):
            probe.run(inputs, request, use_cache=True, past_key_values=self._cache)
        self._image_1K = request.image_BK
        self._next = _next_position(positions[0] if positions else None, self._length)

    def ask(self, questions: Sequence[Question]) -> tuple[AttentionReading, list[Tensor]]:
        """Read questions riding on the prefix; each sees the prefix and itself.

        Returns
        -------
        tuple[AttentionReading, list[Tensor]]
            One row a question; and, if deep, logits (1 + answer length, vocabulary) from the last
            prompt position on.
        """
        lengths = torch.tensor([question.length for question in questions])
        starts = lengths.cumsum(0) - lengths
        total = int(lengths.sum())
        segment_Q = torch.repeat_interleave(torch.arange(len(questions)), lengths)
        offset_Q = torch.arange(total) - starts[segment_Q]
        rows_R = starts + torch.tensor([len(q.prompt_ids) for q in questions]) - 1
        ids = [token for q in questions for token in (*q.prompt_ids, *q.answer_ids)]
        image_1K = torch.cat([self._image_1K, self._image_1K.new_zeros(1, total)], 1)
        request = RowRequest(
            rows_BR=rows_R[None],
            num_queries=total,
            image_BK=image_1K,
            system_BK=(torch.arange(image_1K.shape[1]) < self._system_length)[None],
            stop_layer=None if self._is_deep else self._probe.layers[-1],
            mask_rule=_packed_mask_rule(self._length, segment_Q, offset_Q),
        )
        inputs = {
            "input_ids": torch.tensor([ids]),
            "position_ids": self._next + offset_Q,
        }
        kept = [
            torch.arange(int(row), int(row) + 1 + len(q.answer_ids))
            for row, q in zip(rows_R, questions, strict=True)
        ]
        options = {"logits_to_keep": torch.cat(kept)} if self._is_deep else {}
        outputs = self._probe.run(
            inputs, request, use_cache=True, past_key_values=self._cache, **options
        )
        self._cache.crop(-total)
        reading = self._probe.collect(request)
        if outputs is None:
            return reading, []
        return reading, list(outputs.logits[0].split([len(part) for part in kept]))


def _next_position(position_ids: Tensor | None, length: int) -> Tensor:
    """Position of the first token behind the prefix, shaped to be added to (Q,) offsets."""
    if position_ids is None:
        return torch.full((1, 1), length)
    if position_ids.ndim == 2:
        return position_ids.max().reshape(1, 1).cpu() + 1
    # Multi-axis positions: text goes on behind the largest of any axis. Some models put the plain
    # index in front of the three axes.
    after = torch.full((len(position_ids), 1, 1), int(position_ids[-3:].max()) + 1)
    if len(position_ids) == 4:
        after[0] = length
    return after


def _packed_mask_rule(prefix_length: int, segment_Q: Tensor, offset_Q: Tensor) -> Any:
    position_Q = prefix_length + offset_Q
    position_K = torch.cat([torch.arange(prefix_length), position_Q])
    segment_K = torch.cat([torch.full((prefix_length,), -1), segment_Q])

    @cache
    def rule(window: int | None) -> Tensor:
        distance_QK = position_Q[:, None] - position_K
        is_own_QK = (segment_K == -1) | (segment_K == segment_Q[:, None])
        seen_QK = is_own_QK & (distance_QK >= 0)
        if window:
            seen_QK &= distance_QK < window
        return seen_QK[None, None]

    return rule
