"""Opening a vision-language model, with or without an adapter; all its faults become ours here."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from bye_audit.errors import AdapterMismatchError, ModelError, UnsupportedModelError
from bye_audit.model.decoder import find_image_token_id
from bye_audit.model.prompts import ConversationEncoder

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CARD = "bye_audit.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
# Whatever a foreign folder holds, transformers says so by one of these.
_LOADING_FAULTS = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
)
_GENERIC_FOLDERS = ("model", "snapshot", "checkpoint")


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
    num_layers: int
    num_heads: int


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

    @property
    def base(self) -> Any:
        """The model below the adapter."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter sits on the model now."""
        return hasattr(self.model, "peft_config")

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return _decoder_size(self.base.config)[0]

    @property
    def num_heads(self) -> int:
        """Number of query heads of a decoder layer."""
        return _decoder_size(self.base.config)[1]

    @property
    def identity(self) -> ModelIdentity:
        """What tells this model from every other."""
        return ModelIdentity(
            name=self.name,
            revision=self.revision,
            digest=self.digest,
            adapter_digest=self.adapter_digest,
            dtype=_name_of(self.dtype),
            device=self.device.type,
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
        Where to run. None: the first GPU, else the CPU.
    dtype
        Precision. None: float32 on CPU, bfloat16 on GPU.

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
    """
    folder, name, revision = _find_folder(name_or_path)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = dtype or _default_dtype(where.type)
    with _quiet_transformers():
        model, processor = _open_folder(folder, name, precision, trust_remote_code)
    _refuse_unscorable(model, processor, name)
    try:
        model = model.to(where).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} does not fit into the memory of {where}.", hint="Use a smaller model."
        ) from error
    vlm = VisionLanguageModel(
        model=model,
        processor=processor,
        encoder=ConversationEncoder(
            processor, _stop_ids(model, processor), find_image_token_id(model)
        ),
        name=name,
        revision=revision,
        digest=folder_digest(folder),
        device=where,
        dtype=precision,
    )
    if adapter_dir is not None:
        _put_adapter(vlm, adapter_dir)
    return vlm


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
    folder, name, revision = _find_folder(name_or_path)
    with _quiet_transformers():
        num_layers, num_heads = _decoder_size(_read_config(folder, name, trust_remote_code))
    digest = folder_digest(folder)
    return ModelIdentity(
        name=name,
        revision=revision,
        digest=digest,
        adapter_digest=None
        if adapter_dir is None
        else file_digest(_find_adapter(adapter_dir, name, digest)),
        dtype=_name_of(_default_dtype(device)),
        device=device,
        num_layers=num_layers,
        num_heads=num_heads,
    )


def _default_dtype(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _decoder_size(config: Any) -> tuple[int, int]:
    """Layers of the decoder and query heads of a layer."""
    text = config.get_text_config(decoder=True)
    return int(text.num_hidden_layers), int(text.num_attention_heads)


def model_digest(name_or_path: str) -> str:
    """Digest of a model's files without opening it; as ``VisionLanguageModel.digest``."""
    return folder_digest(_find_folder(name_or_path)[0])


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a model folder's own files."""
    total = hashlib.sha256()
    paths = {path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
    for path in sorted(paths, key=lambda path: path.name):
        if path.name != ADAPTER_CARD:
            total.update(f"{path.name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    # A hub cache names its large files by their sha256: reading 15 GB again would prove nothing.
    cached = path.resolve().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", cached):
        return cached
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_adapter_card(adapter_dir: Path, vlm: VisionLanguageModel) -> None:
    """Write beside an adapter which base model it belongs to."""
    card = {"base_model": vlm.name, "base_revision": vlm.revision, "base_digest": vlm.digest}
    (adapter_dir / ADAPTER_CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _find_folder(name_or_path: str) -> tuple[Path, str, str | None]:
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        absolute = folder.resolve()
        is_generic = absolute.name in _GENERIC_FOLDERS
        # The whole path is the business of nobody who reads the provenance record.
        return folder, absolute.parent.name if is_generic else absolute.name, None
    hub_id, _, revision = name_or_path.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id) or folder.exists():
        raise UnsupportedModelError(
            f"No model at {name_or_path}: there is no such folder.",
            hint="Give a folder in Hugging Face form, a hub id such as llava-hf/llava-1.5-7b-hf, "
            "or mini.",
        )
    return _download(hub_id, revision or None)


def _download(hub_id: str, revision: str | None) -> tuple[Path, str, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=[*_MODEL_FILES, "*.py"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnsupportedModelError(
            f"No model {hub_id}: it is no folder here, and the hub did not give it.",
            hint="Check the spelling, the network and HF_HUB_OFFLINE, or give a local folder.",
        ) from error
    return folder, hub_id, folder.name


def _open_folder(
    folder: Path, name: str, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[Any, Any]:
    config = _read_config(folder, name, trust_remote_code)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except _LOADING_FAULTS as error:
        raise _cannot_open(name, error) from error
    return model, processor


def _read_config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    if not (folder / "config.json").is_file():
        raise UnsupportedModelError(
            f"{name} is no model: its folder has no config.json.",
            hint="Give the folder that save_pretrained or a download of the hub made.",
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except _LOADING_FAULTS as error:
        raise _cannot_open(name, error) from error


def _cannot_open(name: str, error: BaseException) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} cannot be opened as a vision-language model: {first_line(error)}",
        hint="It needs a config of an image-text-to-text model, safetensors weights "
        "and a processor with a chat template.",
    )


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


def _stop_ids(model: Any, processor: Any) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = set(given if isinstance(given, list) else [given])
    ids.add(processor.tokenizer.eos_token_id)
    return frozenset(token for token in ids if token is not None)


def _find_adapter(adapter_dir: Path, name: str, digest: str) -> Path:
    """Give an adapter's weights, once it is known that they belong to the model."""
    weights = adapter_dir / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise AdapterMismatchError(
            f"No adapter in {adapter_dir}: {ADAPTER_WEIGHTS} is not there.",
            hint="Give the folder that bye-audit finetune or PEFT's save_pretrained wrote.",
        )
    card = _read_card(adapter_dir)
    if card and card.get("base_digest") != digest:
        raise AdapterMismatchError(
            f"The adapter in {adapter_dir} was trained on {card.get('base_model')}, not on this "
            f"{name} (their files differ).",
            hint="Give the same --model as in bye-audit finetune, or fine-tune again.",
        )
    return weights


def _put_adapter(vlm: VisionLanguageModel, adapter_dir: Path) -> None:
    weights = _find_adapter(adapter_dir, vlm.name, vlm.digest)
    try:
        with ignoring_future_warnings():
            vlm.model = PeftModel.from_pretrained(vlm.model, str(adapter_dir)).eval()
    except _LOADING_FAULTS as error:
        raise AdapterMismatchError(
            f"The adapter in {adapter_dir} does not fit {vlm.name}: {first_line(error)}",
            hint="Give the model it was trained on, or fine-tune again.",
        ) from error
    vlm.adapter_digest = file_digest(weights)


def _read_card(adapter_dir: Path) -> dict[str, Any]:
    try:
        card = json.loads((adapter_dir / ADAPTER_CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AdapterMismatchError(
            f"{ADAPTER_CARD} in {adapter_dir} cannot be read.", hint="Fine-tune again."
        ) from error
    return card if isinstance(card, dict) else {}


def first_line(error: BaseException) -> str:
    """Say in one short line what a foreign error was about."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def ignoring_future_warnings() -> Iterator[None]:
    """Keep what PEFT and transformers have to tell each other from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and reports off stderr, where ours are drawn."""
    verbosity = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()
