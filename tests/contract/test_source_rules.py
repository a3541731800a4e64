"""Rules that hold for every line of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bye_audit

PACKAGE = Path(bye_audit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# Only what plants poison to measure detection may know which samples are poisoned.
KNOWS_THE_TRUTH = ("canary", "demo.py", "poison")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not UNPICKLERS & set(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle", f"{_name(path)}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True", f"{_name(path)}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_stage_knows_the_truth(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in KNOWS_THE_TRUTH:
        return
    assert "is_poisoned" not in path.read_text("utf-8")
