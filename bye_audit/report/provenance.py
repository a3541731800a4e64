"""The provenance record as a reader's list of facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TITLES = {"detector": "Detection", "lance": "Tables", "inputs": "Sources", "files": "Files"}
# Shown elsewhere on the page.
_LEFT_OUT = frozenset({"decision", "explanation", "limits", "counts", "$schema"})
_LEFT_OUT_INSIDE = frozenset({"layers", "loss_curve", "statistics"})


def list_facts(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Group the record's values under its top-level names, deeper ones by their path.

    Parameters
    ----------
    provenance
        The record that ``filter`` wrote.

    Returns
    -------
    list of dict
        Each with a ``title`` and ``facts``, pairs of name and value.
    """
    groups = []
    general: list[tuple[str, str]] = []
    for name, value in provenance.items():
        if name in _LEFT_OUT:
            continue
        if isinstance(value, Mapping | list):
            facts = list(_flatten(value))
            if facts:
                groups.append({"title": _TITLES.get(name, _spell(name)), "facts": facts})
        else:
            general.append((_spell(name), _show(value)))
    return [{"title": "Audit", "facts": general}, *groups] if general else groups


def _flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            fact
            for key, item in value.items()
            if key not in _LEFT_OUT_INSIDE
            for fact in _flatten(item, f"{path} {_spell(str(key))}".strip())
        ]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [
            fact
            for number, item in enumerate(value, 1)
            for fact in _flatten(item, f"{path} {number}".strip())
        ]
    return [(path, _show(value))]


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _spell(name: str) -> str:
    return name.replace("_", " ").capitalize() if name.islower() else name
