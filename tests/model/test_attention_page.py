"""The page about the probe shows code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from bye_audit import mini

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"


def test_the_example_runs_word_for_word_on_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert code.count("llava-hf/llava-1.5-7b-hf") == 2
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(code.replace("llava-hf/llava-1.5-7b-hf", str(mini.model_dir())), space)  # noqa: S102
    reading = space["reading"]
    assert reading.entropy_NL.shape == (1, 6)  # type: ignore[attr-defined]
    assert reading.image_mass_NLH.shape[:2] == (1, 6)  # type: ignore[attr-defined]
    assert "nan" not in capsys.readouterr().out
