"""Which source file is which: its name in the audit, and whether it is still the same."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from bye_audit.errors import InputError, InterruptedStageError
from bye_audit.progress import Progress

_HASH_CHUNK_BYTES = 1 << 20


def typed_name(path: Path) -> str:
    """Name a source as the user typed it, but never by an absolute path, which is private."""
    if not path.is_absolute():
        return Path(os.path.normpath(path)).as_posix()
    with suppress(ValueError):
        return path.relative_to(Path.cwd()).as_posix()
    return path.name


def name_without_number(name: str) -> str:
    """Drop the number that tells sources of the same name apart."""
    return re.sub(r"#\d+$", "", name)


def digest_of_path(path: Path) -> str:
    """Tell paths apart without writing them down."""
    return hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:32]


def fingerprint(path: Path) -> tuple[int, int]:
    """Size and time of the last change, to notice a change while reading."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def hash_file(path: Path, progress: Progress) -> str:
    """Compute a file's sha256.

    Raises
    ------
    InputError
        If it cannot be read.
    InterruptedStageError
        If the user stops it.
    """
    digest = hashlib.sha256()
    try:
        with (
            path.open("rb") as file,
            progress.task(f"check {path.name}", fingerprint(path)[0], "bytes") as task,
        ):
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
                task.advance(len(chunk))
    except KeyboardInterrupt:
        raise InterruptedStageError(
            f"Ingest was stopped before {path.name} was read.", hint="Run the same command again."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.",
            hint="Check the file and its permissions.",
        ) from error
    return digest.hexdigest()
