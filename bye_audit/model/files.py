"""The files of a model and of an adapter: where they are, what they hold, who they are.

Opens no weights; every fault becomes one of ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig

from bye_audit.errors import AdapterMismatchError, UnsupportedModelError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CARD = "bye_audit.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_GENERIC_FOLDERS = ("model", "snapshot", "checkpoint")
# Whatever a foreign folder holds, transformers says so by one of these.
LOADING_FAULTS = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
)


def find_folder(name_or_path: str) -> tuple[Path, str, str | None]:
    """Find or download a model's folder; its name and, from the hub, its revision come along."""
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


def read_config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    """Read a model's config, or say why there is none."""
    if not (folder / "config.json").is_file():
        raise UnsupportedModelError(
            f"{name} is no model: its folder has no config.json.",
            hint="Give the folder that save_pretrained or a download of the hub made.",
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except LOADING_FAULTS as error:
        raise cannot_open(name, error) from error


def cannot_open(name: str, error: BaseException) -> UnsupportedModelError:
    """Say of a model that transformers does not open it, and why."""
    return UnsupportedModelError(
        f"{name} cannot be opened as a vision-language model: {first_line(error)}",
        hint="It needs a config of an image-text-to-text model, safetensors weights "
        "and a processor with a chat template.",
    )


def model_digest(name_or_path: str) -> str:
    """Digest of a model's files without opening it; as ``VisionLanguageModel.digest``."""
    return folder_digest(find_folder(name_or_path)[0])


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


def find_adapter(adapter_dir: Path, name: str, digest: str) -> Path:
    """Give an adapter's weights, once it is known that they belong to the model."""
    weights = adapter_dir / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise AdapterMismatchError(
            f"No adapter in {adapter_dir}: {ADAPTER_WEIGHTS} is not there.",
            hint="Give the folder that bye-audit finetune or PEFT's save_pretrained wrote.",
        )
    card = read_card(adapter_dir)
    if card and card.get("base_digest") != digest:
        raise AdapterMismatchError(
            f"The adapter in {adapter_dir} was trained on {card.get('base_model')}, not on this "
            f"{name} (their files differ).",
            hint="Give the same --model as in bye-audit finetune, or fine-tune again.",
        )
    return weights


def read_card(adapter_dir: Path) -> dict[str, Any]:
    """Read what an adapter says of its base model; nothing where it has no card."""
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
