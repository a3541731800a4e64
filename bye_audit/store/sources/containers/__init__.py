"""Which containers there are, and which one a file or folder is.

Another package adds its own under the entry point ``bye_audit.containers``: a `Container` each.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bye_audit.errors import InputError, SourceFormatError
from bye_audit.store.sources.containers.arrow_stream import ArrowStream
from bye_audit.store.sources.containers.base import PEEK_BYTES, Container
from bye_audit.store.sources.containers.delimited import Delimited
from bye_audit.store.sources.containers.json_array import JsonArray
from bye_audit.store.sources.containers.json_lines import JsonLines
from bye_audit.store.sources.containers.parquet import ParquetRows
from bye_audit.store.sources.containers.streams import open_stream
from bye_audit.store.sources.containers.tar import TarShard
from bye_audit.store.sources.plugins import load_plugins

ENTRY_POINTS = "bye_audit.containers"
_OWN: tuple[Container, ...] = (
    ParquetRows(),
    ArrowStream(),
    TarShard(),
    JsonArray(),
    JsonLines(),
    Delimited(),
)


@cache
def containers() -> dict[str, Container]:
    """Give all containers by name, other packages' first, as they are the more special."""
    # mypy: a protocol is no concrete type, but isinstance takes this one.
    found = load_plugins(ENTRY_POINTS, Container)  # type: ignore[type-abstract]
    return {each.name: each for each in (*found, *_OWN)}


def recognise_container(path: Path) -> Container:
    """Tell how a file or folder is laid out.

    Raises
    ------
    InputError
        If it cannot be read.
    SourceFormatError
        If it is laid out in no known way.
    """
    opening = b"" if path.is_dir() else _read_opening(path)
    found = next((each for each in containers().values() if each.recognises(path, opening)), None)
    if found is None:
        titles = ", ".join(each.title for each in containers().values())
        raise SourceFormatError(f"{path} is of no known format.", hint=f"Known are {titles}.")
    return found


def _read_opening(path: Path) -> bytes:
    try:
        with open_stream(path) as file:
            return file.read(PEEK_BYTES)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path and its permissions."
        ) from error
