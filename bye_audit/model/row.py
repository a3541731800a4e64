"""One row of attention, computed from the queries and keys an attention function is given.

Shape legend: B samples, H heads, S key positions, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bye_audit.errors import UnsupportedModelError


@dataclass(slots=True)
class RowRequest:
    """What the probe reads during one forward pass."""

    row: int
    num_queries: int
    image_BS: Tensor
    system_BS: Tensor
    text_BS: Tensor
    keep_maps: bool
    stop_layer: int | None


def last_row_logits(
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    mask: Tensor | None,
    row: int,
    *,
    scaling: float | None = None,
    is_causal: bool = True,
    softcap: float | None = None,
    window: int | None = None,
    is_lower_right: bool = False,
    position_bias: Tensor | None = None,
) -> Tensor:
    """Attention logits of one query row in float32, masked entries -inf.

    Parameters
    ----------
    query_BHSD, key_BHSD
        As the attention function gets them: rotated, normalised, after the cache.
    mask
        None, (B, S) of kept keys, or (B, 1, queries, S) booleans or additive values.
    row
        Index of the query.
    scaling
        Factor on the logits. None: one over the root of the head size.
    is_causal
        Whether a missing mask means a causal one.
    softcap
        Bound on the logits, where the model has one.
    window
        Sliding window, where the kernel and not the mask applies it.
    is_lower_right
        Whether the kernel aligns queries with the last keys.
    position_bias
        Additive bias per head, where the model has one.

    Returns
    -------
    Tensor
        (B, H, S).
    """
    num_samples, num_heads, num_queries, size = query_BHSD.shape
    num_key_heads, num_keys = key_BHSD.shape[1], key_BHSD.shape[2]
    row_BHD = query_BHSD[:, :, row].float() * (size**-0.5 if scaling is None else scaling)
    # Query heads of one group share a key head; grouping them spares repeating the keys.
    grouped = row_BHD.reshape(num_samples, num_key_heads, num_heads // num_key_heads, size)
    logits = torch.matmul(grouped, key_BHSD.float().transpose(2, 3))
    logits = logits.reshape(num_samples, num_heads, num_keys)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if position_bias is not None:
        logits = (
            logits + position_bias[..., min(row, position_bias.shape[2] - 1), :num_keys].float()
        )
    shift = num_keys - num_queries if is_lower_right or mask is not None else 0
    last = row + shift if is_causal and num_queries > 1 else num_keys - 1
    first = row + shift - window + 1 if window else 0
    return _apply_mask(logits, mask, row, first, last)


def _apply_mask(logits_BHS: Tensor, mask: Tensor | None, row: int, first: int, last: int) -> Tensor:
    """Hide what the mask hides; without a full one also keys outside ``first`` to ``last``."""
    num_keys = logits_BHS.shape[-1]
    if mask is not None and mask.ndim == 4:
        chosen = mask[:, :, row if mask.shape[2] > 1 else 0, :num_keys]
        if chosen.dtype == torch.bool:
            return logits_BHS.masked_fill(~chosen, -torch.inf)
        return logits_BHS + chosen.float()
    if mask is not None and mask.ndim != 2:
        raise UnsupportedModelError(
            f"The probe cannot read an attention mask of type {type(mask).__name__}.",
            hint="Load the model with sdpa attention.",
        )
    position = torch.arange(num_keys, device=logits_BHS.device)
    hidden = (position < first) | (position > last)
    if mask is not None:
        hidden = hidden | ~mask[:, None, -num_keys:].bool()
    return logits_BHS.masked_fill(hidden, -torch.inf)


def row_statistics(
    logits_BHS: Tensor, sinks: Tensor | None, request: RowRequest
) -> dict[str, Tensor]:
    """Entropies and masses of one row, and the map itself if asked for.

    Parameters
    ----------
    logits_BHS
        As `last_row_logits` gives them.
    sinks
        Logits per head of a place to attend to that is no key, where the model has one.
    request
        Which keys are image, system and text.

    Returns
    -------
    dict[str, Tensor]
        ``entropy``, ``mass`` per sample; ``head_entropy`` and three masses per sample and head;
        ``map`` over the positions. Entropies of rows that attend to no image token are NaN.
    """
    total_BH = torch.logsumexp(logits_BHS, -1)
    if sinks is not None:
        total_BH = torch.logaddexp(total_BH, sinks.float().reshape(1, -1).expand_as(total_BH))
    attention_BHS = torch.exp(logits_BHS - total_BH[..., None])
    image_BHS = attention_BHS * _on_keys(request.image_BS, logits_BHS)
    head_mass_BH = image_BHS.sum(-1)
    mean_BS = image_BHS.mean(1)
    mass_B = mean_BS.sum(-1)
    map_BS = mean_BS / mass_B[..., None]
    row = {
        "entropy": _entropy(map_BS),
        "mass": mass_B,
        "head_entropy": _entropy(image_BHS / head_mass_BH[..., None]),
        "image_mass": head_mass_BH,
        "system_mass": (attention_BHS * _on_keys(request.system_BS, logits_BHS)).sum(-1),
        "text_mass": (attention_BHS * _on_keys(request.text_BS, logits_BHS)).sum(-1),
    }
    if request.keep_maps:
        row["map"] = map_BS
        if map_BS.shape[1] != request.num_queries:
            row["map"] = _fit_left(map_BS, request.num_queries)
    return row


def _entropy(share: Tensor) -> Tensor:
    """Entropy over the last axis; NaN (nothing attended: zero by zero) stays NaN."""
    # xlogy takes 0 log 0 as 0, and is not moved by an epsilon inside the logarithm.
    entropy: Tensor = -torch.special.xlogy(share, share).sum(-1)
    return entropy


def _on_keys(span_BS: Tensor, logits_BHS: Tensor) -> Tensor:
    """Lay a span over the key axis: sliding-window caches hold only the newest keys."""
    span = span_BS.to(logits_BHS.device, torch.float32)
    return _fit_left(span, logits_BHS.shape[-1], pads_right=True)[:, None]


def _fit_left(values_BS: Tensor, length: int, *, pads_right: bool = False) -> Tensor:
    missing = length - values_BS.shape[-1]
    if missing < 0:
        return values_BS[..., -length:]
    padding = (0, missing) if pads_right else (missing, 0)
    return torch.nn.functional.pad(values_BS, padding)
