"""Source formats: which there are, and which one a file is of."""

from __future__ import annotations

import json
from pathlib import Path

from bye_audit.errors import ConfigError, InputError, SourceFormatError
from bye_audit.store.sources.base import SourceFormat
from bye_audit.store.sources.chat_jsonl import ChatJsonlFormat
from bye_audit.store.sources.hf_parquet import HfParquetFormat
from bye_audit.store.sources.llava import LlavaFormat

FORMATS: dict[str, SourceFormat] = {
    source_format.name: source_format
    for source_format in (LlavaFormat(), ChatJsonlFormat(), HfParquetFormat())
}
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")
_PEEK_BYTES = 1 << 16
_KNOWN = "Known are LLaVA JSON (a list), chat JSONL (an object a line) and Hugging Face Parquet."


def choose_format(path: Path, name: str = "auto") -> SourceFormat:
    """Return the format called ``name``, or for ``auto`` the one the file's content shows.

    Raises
    ------
    ConfigError
        If there is no format of that name.
    SourceFormatError
        If the content is of no known format.
    """
    if name == "auto":
        return recognise(path)
    if name not in FORMATS:
        raise ConfigError(
            f"There is no source format {name!r}.", hint=f"Use one of {', '.join(FORMATS)}."
        )
    return FORMATS[name]


def recognise(path: Path) -> SourceFormat:
    """Tell a file's format by its first bytes.

    Raises
    ------
    SourceFormatError
        If it is of no known format.
    """
    try:
        with path.open("rb") as file:
            opening = file.read(_PEEK_BYTES)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path and its permissions."
        ) from error
    if opening.startswith(b"PAR1"):
        return FORMATS["hf-parquet"]
    text = opening.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return FORMATS["llava"]
    if text.startswith(b"{") and _is_line_of_json(text):
        return FORMATS["chat-jsonl"]
    if not text:
        # An empty file is empty in any format; ingest says so.
        return FORMATS["chat-jsonl"]
    raise SourceFormatError(f"{path} is of no known format.", hint=_KNOWN)


def expand(path: Path) -> list[Path]:
    """List the source files a user means: the file itself, or a folder's data files.

    Raises
    ------
    InputError
        If there is nothing at that path.
    SourceFormatError
        If a folder holds no data files.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"There is no file {path}.", hint="Check the path of the source.")
    for suffix in _SUFFIXES:
        found = sorted(p for p in path.rglob(f"*{suffix}") if p.is_file())
        if found:
            return found
    raise SourceFormatError(
        f"The folder {path} holds no {', '.join(_SUFFIXES)} files.",
        hint="Name the file with the records; image folders go to --image-root.",
    )


def _is_line_of_json(text: bytes) -> bool:
    """Tell whether the first line is an object, or at least looks like one line of many."""
    line, newline, rest = text.partition(b"\n")
    if not newline and len(text) + 3 >= _PEEK_BYTES:
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        # A broken first line before whole ones is one bad record, not another format.
        return rest.lstrip().startswith(b"{")
    return True
