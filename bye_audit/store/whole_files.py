"""Files that are written whole or not at all, and JSON that is read only if it is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bye_audit.store.border import storage_errors


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that a killed process leaves as it was, or whole.

    What is no file, such as ``/dev/null`` or a pipe, is written to and stays what it is.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(f"write {path}"):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Any, *, indent: int = 1) -> None:
    """Write a value as JSON, whole or not at all."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a file of `write_json`; None if there is none, or somebody broke it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
