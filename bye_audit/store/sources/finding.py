"""From what a user names to the sources that are meant: where they lie, and how they are read."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from bye_audit.errors import ConfigError, InputError, SourceFormatError
from bye_audit.store.sources.catalogs import (
    LLAMA_FACTORY_FILE,
    Listed,
    find_in_catalog,
    read_catalog,
)
from bye_audit.store.sources.containers import containers, recognise_container
from bye_audit.store.sources.containers.base import Container
from bye_audit.store.sources.dialects import dialects, find_dialect, recognise_dialect
from bye_audit.store.sources.dialects.base import Dialect

AUTO = "auto"
# A folder's files of the first kind that it has: JSON beside Parquet shards describes them.
_KINDS = (
    (".parquet",),
    (".arrow",),
    (".tar", ".tgz"),
    (".jsonl", ".ndjson"),
    (".json",),
    (".csv", ".tsv"),
)
_PACKED = (".gz", ".zst")
_NUM_LOOKED_AT = 8
_GLOB_SIGNS = set("*?[")
_PATTERN_SIGNS = _GLOB_SIGNS | {"{"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file or folder of records.

    Parameters
    ----------
    path
        Where it is.
    image_root
        The folder that image paths in the records are relative to.
    container
        How the records lie in it.
    dialect
        How they are read.
    options
        What a catalog says of them.
    """

    path: Path
    image_root: Path
    container: Container
    dialect: Dialect
    options: dict[str, Any] = field(default_factory=dict)


def find_sources(
    given: Path, format_name: str = AUTO, image_root: Path | None = None
) -> list[Source]:
    """Find the sources a user means by a path.

    Parameters
    ----------
    given
        A data file, a catalog that lists some, a folder of either, or a pattern for any of these.
    format_name
        Name of a dialect or of a container, or ``auto`` for what the content shows.
    image_root
        The folder that image paths are relative to; None: what the catalog says, or else the
        file's own.

    Raises
    ------
    InputError
        If there is nothing at that path, or nothing that is known.
    ConfigError
        If there is no format of that name.
    """
    known = (AUTO, *dialects(), *containers())
    if format_name not in known:
        raise ConfigError(
            f"There is no source format {format_name!r}.", hint=f"Use one of {', '.join(known)}."
        )
    return [
        _open(listed, format_name, image_root)
        for path in _expand(given)
        for listed in _list_files(path)
    ]


def _expand(given: Path) -> list[Path]:
    """Give the paths that a pattern stands for: ``{000..010}`` and ``{a,b}``, then ``*`` and ``?``.

    Raises
    ------
    InputError
        If the pattern stands for nothing, or part of it for nothing.
    """
    text = str(given)
    # What is there by that name is meant by it.
    if given.exists() or not set(text) & _PATTERN_SIGNS:
        return [given]
    try:
        names = list(braceexpand(text))
    except ValueError as error:
        raise InputError(f"{given} has a brace too many or too few.", hint=str(error)) from error
    found = []
    for each in names:
        if not set(each) & _GLOB_SIGNS:
            found.append(Path(each))
            continue
        paths = sorted(glob.glob(each, recursive=True))  # noqa: PTH207 - absolute patterns too
        if not paths:
            raise InputError(f"Nothing matches {each}.", hint="Check the pattern of the source.")
        found += map(Path, paths)
    return found


def _list_files(given: Path) -> list[Listed]:
    if given.is_file():
        catalog = read_catalog(given)
        return [find_in_catalog(given) or Listed(path=given)] if catalog is None else catalog
    if not given.is_dir():
        raise InputError(f"There is no file {given}.", hint="Check the path of the source.")
    beside = given / LLAMA_FACTORY_FILE
    # A folder that `datasets` saved has a file of this name too, which lists nothing.
    listed = read_catalog(beside) if beside.is_file() else None
    if listed is not None:
        return listed
    # Data files only are remembered: there may be millions of images beside them.
    of_kind: dict[tuple[str, ...], list[Path]] = {kind: [] for kind in _KINDS}
    for path in given.rglob("*"):
        for kind, found in of_kind.items():
            if _unpacked_name(path).endswith(kind) and path.is_file():
                found.append(path)
    for found in of_kind.values():
        if found:
            return [Listed(path=path) for path in sorted(found)]
    suffixes = ", ".join(suffix for kind in _KINDS for suffix in kind)
    raise SourceFormatError(
        f"The folder {given} holds no {suffixes} files.",
        hint="Name the file with the records; image folders go to --image-root.",
    )


def _unpacked_name(path: Path) -> str:
    name = path.name.lower()
    return next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)


def _open(listed: Listed, format_name: str, image_root: Path | None) -> Source:
    if format_name in containers():
        container = containers()[format_name]
    else:
        container = recognise_container(listed.path)
    if format_name in dialects():
        dialect = find_dialect(format_name, listed.options)
    elif listed.dialect is not None:
        dialect = find_dialect(listed.dialect, listed.options)
    else:
        records = islice(container.records(listed.path, 0), _NUM_LOOKED_AT)
        dialect = recognise_dialect([each.value for each in records if each.fault is None])
    return Source(
        path=listed.path,
        image_root=image_root or listed.image_root or listed.path.parent,
        container=container,
        dialect=dialect,
        options=listed.options,
    )
