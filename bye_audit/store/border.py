"""The one place where faults of Lance, Arrow and the disk become errors of ours."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from bye_audit.errors import SchemaMismatchError, StageNotRunError, StorageError

_DISK_FULL = ("no space left", "disk quota", "file too large", "os error 28", "os error 27")
_REFUSED = ("permission denied", "read-only file system", "os error 13", "os error 30")
_MISSING_COLUMN = re.compile(r"No field named \"?([\w.]+)")
_SOURCE_PLACE = re.compile(r",? ?/\S+\.rs:\d+:\d+")
_MAX_MESSAGE_CHARS = 300

_STAGE_OF_PREFIX = {
    "entropy_": "score",
    "image_mass_": "score",
    "score_": "score",
    "answer_logp": "score",
    "num_image_tokens": "score",
    "verdict": "filter",
    "reason": "filter",
    "suspicion": "filter",
    "detector_score": "filter",
    "filter_run": "filter",
}


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn what storage engines raise inside the block into errors of ours.

    Parameters
    ----------
    action
        What is being done, as in ``write scores``; it completes "Could not ...".

    Raises
    ------
    StageNotRunError
        If a column is asked for that no stage has made yet.
    SchemaMismatchError
        If the files are of a layout this version cannot read.
    StorageError
        If the disk or the object store refuses, or is full.
    """
    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        NotImplementedError,
        pa.ArrowException,
    ) as e:
        missing = _MISSING_COLUMN.search(str(e))
        if missing is not None:
            raise missing_column_error(missing.group(1)) from e
        raise _translated(action, e) from e
    except BaseException as panic:
        # What Lance's own code did not expect arrives as this class, which nothing exports.
        if type(panic).__name__ == "PanicException":
            raise _translated(action, panic) from panic
        raise


def missing_column_error(name: str) -> StageNotRunError:
    """Name the stage that makes a column which is not there."""
    stages = (stage for prefix, stage in _STAGE_OF_PREFIX.items() if name.startswith(prefix))
    stage = next(stages, "ingest")
    return StageNotRunError(
        f"The audit has no column {name!r} yet.",
        hint=f"Run `bye-audit {stage}` first.",
    )


def _translated(action: str, error: BaseException) -> StorageError | SchemaMismatchError:
    text = brief(error)
    lowered = text.lower()
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _has(lowered, _DISK_FULL):
        return StorageError(
            f"Could not {action}: the disk is full.",
            hint="Free some space and run the same command again; what was written is kept.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) or _has(lowered, _REFUSED):
        return StorageError(
            f"Could not {action}: writing or reading is not permitted there.",
            hint="Check the owner and the permissions of the directory.",
        )
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return StorageError(
            f"Could not {action}: {(error.strerror or text).lower()}.",
            hint="Choose another directory or --out.",
        )
    if "cannot be read by this version" in lowered or "flags:" in lowered:
        return SchemaMismatchError(
            f"Could not {action}: the tables need a newer Lance than is installed ({text}).",
            hint="Install the bye-audit version that wrote this audit directory.",
        )
    return StorageError(
        f"Could not {action}: {text}",
        hint="Run the same command again; if it fails again, check the audit directory's disk.",
    )


def brief(error: BaseException) -> str:
    """Give an engine's message on one line, without the places in its own source."""
    text = " ".join(_SOURCE_PLACE.sub("", str(error)).split())
    if len(text) > _MAX_MESSAGE_CHARS:
        return text[: _MAX_MESSAGE_CHARS - 3] + "..."
    return text


def _has(text: str, needles: tuple[str, ...]) -> bool:
    return any(needle in text for needle in needles)
