"""Other packages' readers are found by their entry points, and come first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bye_audit.errors import ConfigError
from bye_audit.store.sources.dialects import dialects
from bye_audit.store.sources.finding import find_sources

MODULE = """
from bye_audit.store.sources.dialects.base import Dialect
from bye_audit.store.sources.dialects.turns import Names, read_turns

NAMES = Names(turns=("dialog",), role=("speaker",), text=("said",))
OURS = Dialect(
    name="ours",
    title="Ours",
    fits=lambda record: isinstance(record, dict) and "dialog" in record,
    read=lambda record: read_turns(record, NAMES),
)
BROKEN = 5
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a place for installed packages, with one in it."""
    site = tmp_path / "site"
    info = site / "our_readers-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "our_readers.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-readers\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    dialects.cache_clear()
    yield info
    dialects.cache_clear()
    sys.modules.pop("our_readers", None)


def offer(info: Path, value: str) -> None:
    (info / "entry_points.txt").write_text(f"[bye_audit.dialects]\nours = {value}\n")
    dialects.cache_clear()


def test_a_package_adds_a_dialect(site: Path, tmp_path: Path) -> None:
    offer(site, "our_readers:OURS")
    assert next(iter(dialects())) == "ours"
    record = {"dialog": [{"speaker": "user", "said": "?"}, {"speaker": "gpt", "said": "a star"}]}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (found,) = find_sources(path)
    assert found.dialect.title == "Ours"
    assert found.dialect.read(record).messages[1]["content"] == "a star"


@pytest.mark.parametrize(
    "value", ["our_readers:MISSING", "no_such_module:OURS", "our_readers:BROKEN"]
)
def test_what_is_no_reader_is_named(site: Path, value: str) -> None:
    offer(site, value)
    with pytest.raises(ConfigError, match=value) as caught:
        dialects()
    assert caught.value.hint == "Mend or uninstall our-readers."
