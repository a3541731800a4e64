"""Loading the language decoder in 8 or 4 bits, which an adapter is then trained on (QLoRA)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from bye_audit.errors import MissingDependencyError
from bye_audit.model.targets import find_targets


def quantization_settings(
    quantization: str, config: Any, dtype: torch.dtype, *, trust_remote_code: bool
) -> Any:
    """Say which layers are loaded in how many bits; None for ``none``.

    Only what an adapter will sit on is quantised: the vision tower is small beside the decoder,
    the projector is trained whole, and routers choose by small differences.

    Raises
    ------
    MissingDependencyError
        If bitsandbytes is not installed.
    """
    if quantization == "none":
        return None
    if find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            f"Loading a model in {quantization} needs the package bitsandbytes.",
            hint="pip install 'bye-audit[quantized]'",
        )
    with torch.device("meta"):
        sketch = AutoModelForImageTextToText.from_config(
            config, trust_remote_code=trust_remote_code
        )
    quantized = set(find_targets(sketch))
    others = [
        name
        for name, module in sketch.named_modules()
        if isinstance(module, nn.Linear) and name not in quantized
    ]
    return BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        llm_int8_skip_modules=others,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
