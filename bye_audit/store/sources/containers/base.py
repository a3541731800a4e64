"""What every container can do: read records, keep their raw form, write the survivors back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bye_audit.errors import SourceFormatError
from bye_audit.store.sources.conversation import BadRecordError, ImageReference

MAX_RECORD_BYTES = 512 << 20
"""A single record above this is a broken file, not data."""

PEEK_BYTES = 1 << 16
"""Of a file's first bytes, as many as a container is recognised by."""

LoadImages = Callable[[list[str]], dict[str, bytes]]


@dataclass(frozen=True)
class SourceRecord:
    """One record of a source file."""

    row: int
    """0-based position among the file's records."""
    raw: bytes
    """Its own bytes, or nothing where the container has no bytes of a single record."""
    value: object
    """What it parses to."""
    fault: BadRecordError | None
    """Why it does not parse."""
    progress: int
    """How far it brings the reader on, in the container's unit."""
    parts: Any = None
    """What its container needs to keep it, where that is more than ``raw``."""


@dataclass(frozen=True)
class StoredRecord:
    """One surviving sample on its way back into its source's format."""

    raw: bytes
    images: list[str]


@runtime_checkable
class Container(Protocol):
    """One way of laying records out in a file or folder."""

    name: str
    title: str
    unit: str

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell whether a file is laid out so, by its first bytes; of a folder there are none."""
        ...

    def describe(self, path: Path) -> dict[str, Any]:
        """Tell what writing back will need and ``total``, the length in ``unit``.

        Raises
        ------
        SourceFormatError
            If the file is not laid out so.
        """
        ...

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read records from ``first_row`` on, without holding the file in memory."""
        ...

    def stored_raw(
        self, record: SourceRecord, references: list[ImageReference], digests: list[str]
    ) -> bytes:
        """Form of a record to keep: everything but the images' bytes."""
        ...

    def value_of(self, raw: bytes, description: dict[str, Any]) -> object:
        """Parse a stored form; embedded images are stand-ins of no use."""
        ...

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write records as a new file of this layout."""
        ...


def unreadable(path: Path, kind: str, error: Exception) -> SourceFormatError:
    """Say that a file is not what it seems, with what its reader says of it."""
    return SourceFormatError(
        f"{path} is not readable {kind}: {' '.join(str(error).split())[:200]}.",
        hint="Fetch the file again; nothing of it was kept.",
    )


def in_groups(records: Iterable[StoredRecord], size: int) -> Iterator[list[StoredRecord]]:
    """Divide records into lists, so that images are fetched for many at once."""
    iterator = iter(records)
    while group := list(islice(iterator, size)):
        yield group
