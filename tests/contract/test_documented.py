"""What the documents say of the commands is so."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from bye_audit.cli.main import bye_audit
from bye_audit.config import DetectConfig, FinetuneConfig
from bye_audit.core.detectors import DETECTORS
from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.containers import containers
from bye_audit.store.sources.dialects import dialects

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(bye_audit.commands)
# Settings that are no option: the seed of a fit and how often work is committed.
# What the description of TCAP leaves open is for whoever studies it, from Python.
NO_OPTION = {"checkpoint_seconds", "lora_dropout", "warmup_ratio", "tcap"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.search(rf"\bbye-audit {name}\b", readme)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = bye_audit.commands[name]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name}"


def test_the_readme_names_no_command_that_is_not_there() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^\s*(?:\$ )?bye-audit ([a-z]+)\b", readme, flags=re.MULTILINE))
    assert named <= set(COMMANDS)


def test_every_setting_is_an_option_of_run() -> None:
    options = {option.name for option in bye_audit.commands["run"].params}
    for config in (FinetuneConfig, DetectConfig):
        assert {item.name for item in fields(config)} - options <= NO_OPTION


def test_help_names_every_detector_and_format() -> None:
    texts = {
        option.name: getattr(option, "help", "") for option in bye_audit.commands["run"].params
    }
    for name in DETECTORS:
        assert name in texts["detector"]
    for name in (*dialects(), *containers()):
        assert name in texts["source_format"]


def test_every_format_and_code_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "formats.md").read_text("utf-8")
    for name in (*dialects(), *containers(), *QuarantineCode):
        assert f"| `{name}` |" in page
