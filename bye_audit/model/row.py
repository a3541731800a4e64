"""Rows of attention, computed from the queries and keys an attention function is given.

Shape legend: B samples, R rows read of each, Q queries, K keys, H query heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bye_audit.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What a decoder layer hands to its attention function, rotated and after the cache."""

    query_BHQD: Tensor
    key_BHKD: Tensor
    mask: Any
    """None, (B, K) of kept keys, or (B, 1, Q, K) booleans or additive values."""
    options: dict[str, Any]
    """Keyword arguments: scaling, softcap, sliding_window, s_aux (sinks), position_bias ..."""
    is_causal: bool
    """Whether a missing mask means a causal one."""
    is_flash: bool
    """Whether the kernel, not the mask, applies windows and aligns queries with the last keys."""


def row_logits(call: AttentionCall, rows_BR: Tensor) -> Tensor:
    """Attention logits of some query rows, masked entries -inf.

    Parameters
    ----------
    call
        What the attention function was given.
    rows_BR
        Indices on the query axis.

    Returns
    -------
    Tensor
        (B, H, R, K) in float32, or float64 where the model computes in it.
    """
    query, key = call.query_BHQD, call.key_BHKD
    num_samples, num_heads, _, size = query.shape
    num_key_heads, num_keys = key.shape[1], key.shape[2]
    num_rows = rows_BR.shape[1]
    precision = torch.promote_types(query.dtype, torch.float32)
    scaling = call.options.get("scaling")
    index = rows_BR[:, None, :, None].expand(-1, num_heads, -1, size)
    rows = query.gather(2, index).to(precision) * (size**-0.5 if scaling is None else scaling)
    # Query heads of one group share a key head; grouping them spares repeating the keys.
    grouped = rows.reshape(num_samples, num_key_heads, -1, size)
    logits = torch.matmul(grouped, key.to(precision).transpose(2, 3))
    logits = logits.reshape(num_samples, num_heads, num_rows, num_keys)
    softcap, bias = call.options.get("softcap"), call.options.get("position_bias")
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if bias is not None:
        logits = logits + _take_rows(bias[..., :num_keys], rows_BR).to(precision)
    return _apply_mask(logits, call, rows_BR)


def row_sinks(call: AttentionCall, module: Any, rows_BR: Tensor) -> Tensor | None:
    """Logits of the rows' sinks, (B, H, R): one a head, or one a head and query; None without."""
    given = (call.options.get("s_aux"), call.options.get("sinks"), getattr(module, "sinks", None))
    sinks: Tensor | None = next((value for value in given if value is not None), None)
    if sinks is None:
        return None
    if sinks.ndim == 4:
        return _take_rows(sinks, rows_BR)[..., 0]
    num_samples, num_rows = rows_BR.shape
    return sinks.reshape(1, -1, 1).expand(num_samples, -1, num_rows)


def _take_rows(values: Tensor, rows_BR: Tensor) -> Tensor:
    """Pick query rows of (B or 1, H or 1, Q or 1, K) values."""
    values = values.expand(len(rows_BR), -1, -1, -1)
    rows_BR = rows_BR if values.shape[2] > 1 else torch.zeros_like(rows_BR)
    index = rows_BR[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index)


def _apply_mask(logits: Tensor, call: AttentionCall, rows_BR: Tensor) -> Tensor:
    mask, num_keys = call.mask, logits.shape[-1]
    if mask is not None and not isinstance(mask, Tensor):
        raise UnsupportedModelError(
            f"The probe cannot read an attention mask of type {type(mask).__name__}.",
            hint="Load the model with sdpa attention.",
        )
    if mask is not None and mask.ndim == 4:
        chosen = _take_rows(mask[..., :num_keys], rows_BR)
        if chosen.dtype == torch.bool:
            return logits.masked_fill(~chosen, -torch.inf)
        return logits + chosen.to(logits.dtype)
    num_queries = call.query_BHQD.shape[2]
    # Without a mask torch counts a causal triangle from the first key, flash from the last.
    shift = num_keys - num_queries if call.is_flash or mask is not None else 0
    last_BR = rows_BR + shift
    if not (call.is_causal and num_queries > 1):
        last_BR = torch.full_like(rows_BR, num_keys - 1)
    position = torch.arange(num_keys, device=logits.device)
    hidden = position > last_BR[..., None]
    window = call.options.get("sliding_window") if call.is_flash else None
    if window:
        hidden = hidden | (position <= last_BR[..., None] - window)
    if mask is not None:
        hidden = hidden | ~mask[:, None, -num_keys:].bool()
    return logits.masked_fill(hidden[:, None], -torch.inf)


def row_statistics(
    logits_BHRK: Tensor,
    image_BK: Tensor,
    system_BK: Tensor,
    sinks_BHR: Tensor | None = None,
    *,
    keeps_maps: bool = False,
) -> dict[str, Tensor]:
    """Entropies and masses of rows, and the maps themselves if asked for.

    Parameters
    ----------
    logits_BHRK
        As `row_logits` gives them.
    image_BK, system_BK
        Which keys are image features and which stand before anything a user said.
    sinks_BHR
        Logits of a place to attend to that is no key, where the model has one.
    keeps_maps
        Whether the head-averaged map over the keys is wanted as well.

    Returns
    -------
    dict[str, Tensor]
        ``entropy`` and ``mass`` (B, R); ``head_entropy``, ``image_mass``, ``system_mass`` and
        ``text_mass`` (B, R, H); ``num_visible`` (B, R), image keys not masked; ``map`` (B, R, K).
        Entropies of rows that attend to no image token are NaN, never 0: nothing seen is not a
        collapse.
    """
    total_BHR = torch.logsumexp(logits_BHRK, -1)
    if sinks_BHR is not None:
        total_BHR = torch.logaddexp(total_BHR, sinks_BHR.to(total_BHR.dtype))
    attention_BHRK = torch.exp(logits_BHRK - total_BHR[..., None])
    # A row that may see nothing at all has no attention, rather than none that is a number.
    attention_BHRK = attention_BHRK.masked_fill(torch.isneginf(total_BHR)[..., None], 0.0)
    image_BHRK = attention_BHRK * _on_keys(image_BK, attention_BHRK)
    system_BHR = (attention_BHRK * _on_keys(system_BK, attention_BHRK)).sum(-1)
    head_mass_BHR = image_BHRK.sum(-1)
    mean_BRK = image_BHRK.mean(1)
    mass_BR = mean_BRK.sum(-1)
    map_BRK = mean_BRK / mass_BR[..., None]
    text_BHR = (attention_BHRK.sum(-1) - head_mass_BHR - system_BHR).clamp_min(0)
    # Additive masks hold the least number there is instead of minus infinity.
    is_visible = logits_BHRK[:, :1] > torch.finfo(torch.float32).min / 2
    found = {
        "num_visible": (is_visible & _on_keys(image_BK, logits_BHRK).bool())[:, 0].sum(-1),
        "entropy": _entropy(map_BRK),
        "mass": mass_BR,
        "head_entropy": _entropy(image_BHRK / head_mass_BHR[..., None]).transpose(1, 2),
        "image_mass": head_mass_BHR.transpose(1, 2),
        "system_mass": system_BHR.transpose(1, 2),
        "text_mass": text_BHR.transpose(1, 2),
    }
    if keeps_maps:
        found["map"] = map_BRK
    return found


def _entropy(share: Tensor) -> Tensor:
    """Entropy over the last axis; NaN (nothing attended: zero by zero) stays NaN."""
    # xlogy takes 0 log 0 as 0, and is not moved by an epsilon inside the logarithm.
    entropy: Tensor = -torch.special.xlogy(share, share).sum(-1)
    return entropy


def _on_keys(span_BK: Tensor, attention_BHRK: Tensor) -> Tensor:
    """Lay a span over the key axis: sliding-window caches hold only the newest keys."""
    span = span_BK.to(attention_BHRK.device, attention_BHRK.dtype)
    missing = attention_BHRK.shape[-1] - span.shape[-1]
    if missing < 0:
        span = span[:, -attention_BHRK.shape[-1] :]
    elif missing:
        span = torch.nn.functional.pad(span, (0, missing))
    return span[:, None, None]
