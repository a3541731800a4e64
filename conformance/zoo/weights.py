"""Where random weights of the common size make attention too flat or too sharp to tell anything."""

from __future__ import annotations

from typing import Any

import torch


def scale_queries(model: Any, factor: float, part: str = "q_norm") -> Any:
    """Multiply the attention logits of a decoder by way of the weights that make its queries.

    Parameters
    ----------
    model
        A model whose decoder is found by ``get_decoder``.
    factor
        Above one for sharper attention.
    part
        The last name of the modules whose weights are multiplied.
    """
    with torch.no_grad():
        for name, weight in model.get_decoder().named_parameters():
            if name.endswith(f".{part}.weight"):
                weight.mul_(factor)
    return model
