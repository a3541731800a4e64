"""Opening a vision-language model, with or without an adapter; all its faults become ours here."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModelForImageTextToText, AutoProcessor

from bye_audit.errors import (
    AdapterMismatchError,
    ConfigError,
    MissingDependencyError,
    ModelError,
    UnsupportedModelError,
)
from bye_audit.model.decoder import find_image_token_id
from bye_audit.model.files import (
    ADAPTER_CARD,
    LOADING_FAULTS,
    cannot_open,
    file_digest,
    find_adapter,
    find_folder,
    first_line,
    folder_digest,
    read_card,
    read_config,
)
from bye_audit.model.identity import ModelIdentity, decoder_size, default_dtype, dtype_name
from bye_audit.model.prompts import ConversationEncoder
from bye_audit.model.quantization import quantization_settings
from bye_audit.model.quiet import ignoring_future_warnings, quiet_transformers


@dataclass(slots=True)
class VisionLanguageModel:
    """A model with its processor, and where both came from.

    ``model`` is replaced when an adapter is trained on it or taken off; the rest stays.
    """

    model: Any
    processor: Any
    encoder: ConversationEncoder
    name: str
    revision: str | None
    digest: str
    device: torch.device
    dtype: torch.dtype
    adapter_digest: str | None = None
    quantization: str = "none"

    @property
    def base(self) -> Any:
        """The model below the adapter."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter sits on the model now."""
        return hasattr(self.model, "peft_config")

    @property
    def attention(self) -> str:
        """Kernel of the decoder's attention, such as ``sdpa``."""
        return str(self.base.config.get_text_config(decoder=True)._attn_implementation)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return decoder_size(self.base.config)[0]

    @property
    def num_heads(self) -> int:
        """Number of query heads of a decoder layer."""
        return decoder_size(self.base.config)[1]

    @property
    def identity(self) -> ModelIdentity:
        """What tells this model from every other."""
        return ModelIdentity(
            name=self.name,
            revision=self.revision,
            digest=self.digest,
            adapter_digest=self.adapter_digest,
            dtype=dtype_name(self.dtype),
            device=self.device.type,
            attention=self.attention,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
        )

    def without_adapter(self) -> Any:
        """Context in which the model answers as it did before fine-tuning."""
        return self.model.disable_adapter() if self.has_adapter else nullcontext()

    def drop_adapter(self) -> None:
        """Take the adapter off for good, so that another one can be trained."""
        if not self.has_adapter:
            return
        for module in self.model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                # Unloading keeps whole trained modules, which are then no part of any adapter.
                for adapter in list(module.modules_to_save):
                    module.modules_to_save[adapter] = module.original_module
        self.model = self.model.unload()
        self.adapter_digest = None


def load_model(
    name_or_path: str,
    *,
    adapter_dir: Path | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
) -> VisionLanguageModel:
    """Open a vision-language model and its processor, ready to score.

    Parameters
    ----------
    name_or_path
        A folder in Hugging Face form, or a hub id, or ``id@revision``.
    adapter_dir
        A PEFT adapter to put on it. None: the model as it is.
    trust_remote_code
        Run code that comes with the model. Only for models whose code was read.
    device
        Where to run, such as ``cuda:1``; ``auto``: spread over all GPUs and the CPU by accelerate.
        None: the first GPU, else the CPU.
    dtype
        Precision. None: float32 on CPU, bfloat16 on GPU.
    quantization
        ``none``, ``8bit`` or ``4bit`` for the language decoder. None: as the adapter was trained.

    Returns
    -------
    VisionLanguageModel
        In evaluation mode.

    Raises
    ------
    UnsupportedModelError
        If there is no vision-language model under that name, or not one this can score.
    AdapterMismatchError
        If the adapter is missing, broken, or was trained on another model.
    MissingDependencyError
        If quantisation is asked for and bitsandbytes is not installed.
    """
    folder, name, revision = find_folder(name_or_path)
    is_spread = device == "auto"
    chosen = None if is_spread else device
    where = _find_device(chosen or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = dtype or default_dtype(where.type)
    card = read_card(adapter_dir) if adapter_dir is not None else {}
    quantization = quantization or str(card.get("quantization", "none"))
    with quiet_transformers():
        model, processor = _open_folder(
            folder, name, precision, "auto" if is_spread else where, quantization, trust_remote_code
        )
    _refuse_unscorable(model, processor, name)
    try:
        # A quantised model, or one that is spread, is put where it belongs while it is read.
        model = model if quantization != "none" or is_spread else model.to(where)
        model = model.eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} does not fit into the memory of {where}.", hint="Use a smaller model."
        ) from error
    vlm = VisionLanguageModel(
        model=model,
        processor=processor,
        encoder=make_encoder(model, processor),
        name=name,
        revision=revision,
        digest=folder_digest(folder),
        device=model.device if is_spread else where,
        dtype=precision,
        quantization=quantization,
    )
    if adapter_dir is not None:
        _put_adapter(vlm, adapter_dir)
    return vlm


def _open_folder(
    folder: Path,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: str,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    config = read_config(folder, name, trust_remote_code)
    try:
        settings = quantization_settings(
            quantization, config, dtype, trust_remote_code=trust_remote_code
        )
        placement = device if device == "auto" else None if settings is None else {"": device}
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            quantization_config=settings,
            device_map=placement,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except MissingDependencyError:
        raise
    except LOADING_FAULTS as error:
        raise cannot_open(name, error) from error
    return model, processor


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # torch says no to a device by whatever the missing backend raises.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"There is no device {name} here: {first_line(error)}",
            hint="--device takes cpu, cuda, cuda:1 and the like, or auto.",
        ) from error
    return device


def _refuse_unscorable(model: Any, processor: Any, name: str) -> None:
    lacks = [
        what
        for what, is_there in {
            "an image processor": hasattr(processor, "image_processor"),
            "a tokenizer": hasattr(processor, "tokenizer"),
            "a chat template": bool(getattr(processor, "chat_template", None)),
            "an image token": find_image_token_id(model) is not None,
            "a decoder that can be found": hasattr(model, "get_decoder"),
        }.items()
        if not is_there
    ]
    if lacks:
        raise UnsupportedModelError(
            f"{name} cannot be scored: it has not {' nor '.join(lacks)}.",
            hint="Models that read images as tokens of the prompt can be scored "
            "(LLaVA, InternVL, Qwen-VL and the like).",
        )


def write_adapter_card(adapter_dir: Path, vlm: VisionLanguageModel) -> None:
    """Write beside an adapter which base model it belongs to."""
    card = {
        "base_model": vlm.name,
        "base_revision": vlm.revision,
        "base_digest": vlm.digest,
        "quantization": vlm.quantization,
    }
    (adapter_dir / ADAPTER_CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def make_encoder(model: Any, processor: Any) -> ConversationEncoder:
    """Make what turns conversations into this model's input."""
    # A prompt of PaliGemma's sees all of itself, and of its answer too unless told what that is.
    answer_type = 1 if model.config.model_type == "paligemma" else 0
    return ConversationEncoder(
        processor, _stop_ids(model, processor), find_image_token_id(model), answer_type
    )


def _stop_ids(model: Any, processor: Any) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = set(given if isinstance(given, list) else [given])
    ids.add(processor.tokenizer.eos_token_id)
    return frozenset(token for token in ids if token is not None)


def _put_adapter(vlm: VisionLanguageModel, adapter_dir: Path) -> None:
    weights = find_adapter(adapter_dir, vlm.name, vlm.digest)
    try:
        with ignoring_future_warnings():
            vlm.model = PeftModel.from_pretrained(vlm.model, str(adapter_dir)).eval()
    except LOADING_FAULTS as error:
        raise AdapterMismatchError(
            f"The adapter in {adapter_dir} does not fit {vlm.name}: {first_line(error)}",
            hint="Give the model it was trained on, or fine-tune again.",
        ) from error
    vlm.adapter_digest = file_digest(weights)
