"""The provenance record as a reader's list of facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TITLES = {
    "detector": "Detection",
    "confirm": "Interventions",
    "lance": "Tables",
    "inputs": "Sources",
    "files": "Files",
}
# Shown elsewhere on the page.
_LEFT_OUT = frozenset({"decision", "explanation", "limits", "counts", "$schema"})
# Long, or said by their neighbours: they are in provenance.json.
_LEFT_OUT_INSIDE = frozenset({"layers", "loss_curve", "statistics", "fingerprint", "triggers"})
_MAX_ITEMS = 20


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
            for fact in _flatten(
                item, f"{path}: {_spell(str(key)).lower()}" if path else _spell(key)
            )
        ]
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        facts = [_describe_item(item) for item in value[:_MAX_ITEMS]]
        if len(value) > _MAX_ITEMS:
            facts.append(("…", f"and {len(value) - _MAX_ITEMS:,} more in provenance.json"))
        return facts
    return [(path, _show(value))]


def _describe_item(item: Mapping[str, Any]) -> tuple[str, str]:
    """One line for one file or source: its name, then everything else."""
    (_, name), *rest = item.items()
    return str(name), ", ".join(f"{_spell(key).lower()} {_show(value)}" for key, value in rest)


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
