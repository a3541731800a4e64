"""Who a provisional model is, said without opening its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from bye_audit.model.files import file_digest, find_adapter, find_folder, folder_digest, read_config
from bye_audit.model.quiet import quiet_transformers


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What tells a provisional model from every other, and how large its readings are."""

    name: str
    revision: str | None
    digest: str
    adapter_digest: str | None
    dtype: str
    device: str
    """Kind of device: cpu, cuda."""
    attention: str
    """Kernel of the decoder's attention, such as ``sdpa``."""
    num_layers: int
    num_heads: int


def identify_model(
    name_or_path: str,
    *,
    adapter_dir: Path | None = None,
    trust_remote_code: bool = False,
    device: str,
) -> ModelIdentity:
    """Say what `load_model` would open on another machine's ``device``, without its weights.

    Raises
    ------
    UnsupportedModelError
        If there is no model under that name. Whether it can be scored shows when it is opened.
    AdapterMismatchError
        If the adapter is missing or was trained on another model.
    """
    folder, name, revision = find_folder(name_or_path)
    with quiet_transformers():
        config = read_config(folder, name, trust_remote_code)
        with torch.device("meta"):
            # Only a model knows which kernel it would take.
            sketch = AutoModelForImageTextToText.from_config(
                config, trust_remote_code=trust_remote_code
            )
    num_layers, num_heads = decoder_size(sketch.config)
    digest = folder_digest(folder)
    return ModelIdentity(
        name=name,
        revision=revision,
        digest=digest,
        adapter_digest=None
        if adapter_dir is None
        else file_digest(find_adapter(adapter_dir, name, digest)),
        dtype=dtype_name(default_dtype(device)),
        device=device,
        attention=str(sketch.config.get_text_config(decoder=True)._attn_implementation),
        num_layers=num_layers,
        num_heads=num_heads,
    )


def default_dtype(device: str) -> torch.dtype:
    """Choose the precision of a kind of device."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def dtype_name(dtype: torch.dtype) -> str:
    """Name a precision as tables and records do."""
    return str(dtype).removeprefix("torch.")


def decoder_size(config: Any) -> tuple[int, int]:
    """Layers of the decoder and query heads of a layer."""
    text = config.get_text_config(decoder=True)
    return int(text.num_hidden_layers), int(text.num_attention_heads)
