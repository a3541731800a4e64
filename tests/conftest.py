"""Fixtures and settings every test shares."""

from __future__ import annotations

import os
from pathlib import Path

# Before any test imports torch or transformers: no network, and no more threads than cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture
def rng() -> np.random.Generator:
    """Give a generator that is the same in every run."""
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def tiny_vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Hugging Face folder with a random LLaVA of a few thousand weights."""
    from support.tiny_models import write_tiny_vlm

    model_dir = tmp_path_factory.mktemp("tiny-vlm")
    write_tiny_vlm(model_dir)
    return model_dir


@pytest.fixture
def llava_source(tmp_path: Path) -> Path:
    """Give a LLaVA JSON file of a few scenes with its images beside it."""
    from support.sources import write_llava_source

    return write_llava_source(tmp_path / "source")
