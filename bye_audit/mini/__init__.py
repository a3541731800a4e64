"""The embedded vision-language model and the generated pictures it is tried on."""

from __future__ import annotations

from pathlib import Path


def model_dir() -> Path:
    """Folder of the embedded model in ordinary Hugging Face form.

    Returns
    -------
    Path
        Opens with ``AutoProcessor.from_pretrained`` and
        ``AutoModelForImageTextToText.from_pretrained`` like any other model.
    """
    return Path(__file__).parent / "model"
