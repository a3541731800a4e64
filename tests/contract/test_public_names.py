"""The names users may import, and nothing else by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bye_audit


def test_every_public_name_exists() -> None:
    assert sorted(bye_audit.__all__) == sorted(set(bye_audit.__all__))
    for name in bye_audit.__all__:
        assert getattr(bye_audit, name) is not None


def test_the_whole_public_surface() -> None:
    assert set(bye_audit.__all__) == {
        "Audit",
        "ByeAuditError",
        "CanaryConfig",
        "Decision",
        "DetectConfig",
        "FinetuneConfig",
        "ScoreConfig",
        "Verdict",
        "__version__",
    }


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bye_audit.nonsense


def test_the_package_is_typed() -> None:
    assert (Path(bye_audit.__file__).parent / "py.typed").is_file()


def test_the_module_runs_as_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bye_audit", "--version"], capture_output=True, text=True, check=True
    )
    assert bye_audit.__version__ in result.stdout
