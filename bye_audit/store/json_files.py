"""JSON files that are written whole or not at all, and read only if they are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bye_audit.store.border import storage_errors


def write_json(path: Path, content: Any, *, indent: int = 1) -> None:
    """Write a file that a killed process leaves as it was, or whole."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a file of `write_json`; None if there is none, or somebody broke it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
