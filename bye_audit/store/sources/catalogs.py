"""Files that hold no records but say which files do, and how those are to be read.

LLaMA-Factory's ``dataset_info.json`` names the columns of each of its datasets, InternVL's meta
JSON the image folder of each annotation file. Both are objects of objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bye_audit.errors import InputError

LLAMA_FACTORY_FILE = "dataset_info.json"
_MAX_CATALOG_BYTES = 16 << 20
# How LLaMA-Factory says that a dataset is not here.
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A data file that a catalog lists.

    Parameters
    ----------
    path
        Of the file.
    image_root
        The folder its image paths are relative to; None: its own.
    dialect
        Name of the dialect its records are of; None: to be recognised.
    options
        What the catalog says of its records.
    """

    path: Path
    image_root: Path | None = None
    dialect: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def read_catalog(path: Path) -> list[Listed] | None:
    """Give the data files that a file lists; None if it is no catalog.

    Raises
    ------
    InputError
        If it is one, but lists no file that is there.
    """
    entries = _read_entries(path)
    if entries is None:
        return None
    listed = list(_listed(path, entries))
    if not listed:
        raise InputError(
            f"{path} lists no data file that is here.",
            hint="Download what it names, and put it in the same folder.",
        )
    return listed


def find_in_catalog(path: Path) -> Listed | None:
    """Find what the LLaMA-Factory catalog beside a data file says of it; None if nothing."""
    catalog = path.with_name(LLAMA_FACTORY_FILE)
    if not catalog.is_file() or catalog == path:
        return None
    entries = _read_entries(catalog)
    if entries is None:
        return None
    own = path.resolve()
    return next((each for each in _listed(catalog, entries) if each.path.resolve() == own), None)


def _read_entries(path: Path) -> list[dict[str, Any]] | None:
    if path.suffix.lower() != ".json" or path.stat().st_size > _MAX_CATALOG_BYTES:
        return None
    with path.open("rb") as file:
        if not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    entries = list(value.values())
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return None
    keys = ("file_name", "annotation", *_ELSEWHERE)
    return entries if any(_is_text(entry, *keys) for entry in entries) else None


def _is_text(entry: dict[str, Any], *keys: str) -> bool:
    return any(isinstance(entry.get(key), str) and entry[key] for key in keys)


def _listed(catalog: Path, entries: list[dict[str, Any]]) -> Iterator[Listed]:
    for entry in entries:
        if _is_text(entry, "annotation"):
            found = _find(catalog, entry["annotation"])
            root = _find(catalog, entry["root"]) if _is_text(entry, "root") else None
            if found is not None and found.is_file():
                repeat = entry.get("repeat_time")
                options = {"repeat_time": repeat} if isinstance(repeat, int | float) else {}
                yield Listed(path=found, image_root=root, dialect="internvl", options=options)
        elif _is_text(entry, "file_name"):
            found = _find(catalog, entry["file_name"])
            if found is not None:
                options = {key: entry[key] for key in ("columns", "tags") if key in entry}
                for path in _data_files(found):
                    yield Listed(path=path, dialect="llama-factory", options=options)


def _find(catalog: Path, text: str) -> Path | None:
    """Find a path that a catalog names beside it or where the command runs, never elsewhere."""
    for base in (catalog.parent, Path.cwd()):
        try:
            path = base / text
            if path.exists() and path.resolve().is_relative_to(base.resolve()):
                return path
        except (OSError, ValueError):
            # A name that no file can have.
            continue
    return None


def _data_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(each for each in path.iterdir() if each.is_file())
    return [path]
