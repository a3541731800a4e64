"""WebDataset tar: members of one name are a sample, told apart by what follows its first dot.

Nothing is ever unpacked to disk. Members keep their headers, so that a shard is written back as it
was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bye_audit.errors import SourceFormatError
from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.containers.base import (
    MAX_RECORD_BYTES,
    LoadImages,
    SourceRecord,
    StoredRecord,
    in_groups,
)
from bye_audit.store.sources.containers.streams import (
    SourceStream,
    create_stream,
    open_stream,
    read_compression,
)
from bye_audit.store.sources.conversation import BadRecordError, ImageReference

_BLOCK_BYTES = 512
_MAGIC, _MAGIC_AT = b"ustar", 257
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_VIDEOS = ("mp4", "avi", "mov", "mkv", "webm")
_AUDIOS = ("wav", "mp3", "flac", "ogg", "m4a")
_TEXTS = ("txt", "text", "caption")
_GROUP_RECORDS = 64
# In the place of an image that lies in the table of images.
_ELSEWHERE = b"\0"


@dataclass(frozen=True, slots=True)
class _Member:
    """One member of an archive.

    Parameters
    ----------
    header
        Its blocks before the content, extended headers included.
    name
        Of a file that may be part of a sample; empty for folders, links and the like.
    content
        Without the padding.
    """

    header: bytes
    name: str
    content: bytes

    @property
    def key(self) -> str:
        """Name of its sample; empty if it is part of none."""
        found = _NAME.fullmatch(self.name)
        return found[1] if found else ""

    @property
    def kind(self) -> str:
        """What it is of its sample: all that follows the first dot, in small letters."""
        found = _NAME.fullmatch(self.name)
        return found[2].lower() if found else ""


class TarShard:
    """A tar of samples, as WebDataset and Energon write it."""

    name = "webdataset"
    title = "WebDataset tar"
    unit = "bytes"

    def recognises(self, path: Path, opening: bytes) -> bool:
        """Tell by the mark in the first header."""
        return opening[_MAGIC_AT:].startswith(_MAGIC)

    def describe(self, path: Path) -> dict[str, Any]:
        """Find how many bytes of zeros end the archive.

        Raises
        ------
        SourceFormatError
            If it is no tar.
        """
        compression = read_compression(path)
        total = path.stat().st_size
        # A compressed one would have to be read from end to end for it.
        end = None if compression else total - _end_of_members(path)
        return {"total": total, "end": end, "compression": compression}

    def records(self, path: Path, first_row: int) -> Iterator[SourceRecord]:
        """Read samples one by one; what is part of none goes with the next."""
        row = 0
        loose: list[_Member] = []
        with open_stream(path) as file:
            for key, group in groupby(_members(file, path), key=lambda member: member.key):
                members = [*loose, *_bounded(group, path)]
                if not key:
                    loose = members
                    continue
                loose = []
                if row >= first_row:
                    yield _record(row, key, members, file.advanced())
                row += 1
            if loose and row >= first_row:
                yield _record(row, "", loose, file.advanced())

    def stored_raw(
        self, record: SourceRecord, references: list[ImageReference], digests: list[str]
    ) -> bytes:
        """Keep members as JSON; images that lie in the table of images leave their digest."""
        del references
        known = set(digests)
        members: tuple[_Member, ...] = record.parts
        return json.dumps([_as_json(member, known) for member in members]).encode()

    def value_of(self, raw: bytes, description: dict[str, Any]) -> object:
        """Parse a stored sample; images are stand-ins of no use."""
        del description
        members = [_from_json(member, {}) for member in json.loads(raw)]
        return _as_value(members[-1].key, members)

    def write(
        self,
        path: Path,
        records: Iterable[StoredRecord],
        description: dict[str, Any],
        load_images: LoadImages,
    ) -> None:
        """Write members as they were, and an end as the source has it."""
        num_bytes = 0
        with create_stream(path, description["compression"]) as file:
            for group in in_groups(records, _GROUP_RECORDS):
                images = load_images([digest for record in group for digest in record.images])
                for record in group:
                    for stored in json.loads(record.raw):
                        member = _from_json(stored, images)
                        num_bytes += file.write(member.header + _padded(member.content))
            end = description["end"]
            file.write(bytes(-num_bytes % tarfile.RECORDSIZE or tarfile.RECORDSIZE
                             if end is None else end))  # fmt: skip


class _Tape:
    """A stream that tarfile reads headers from, and that remembers what it read."""

    def __init__(self, file: SourceStream) -> None:
        self._file = file
        self._position = 0
        self._read: list[bytes] = []

    def read(self, num_bytes: int) -> bytes:
        found = self._file.read(num_bytes)
        self._position += len(found)
        self._read.append(found)
        return found

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Give what was read since this was last called."""
        found, self._read = b"".join(self._read), []
        return found


def _members(file: SourceStream, path: Path) -> Iterator[_Member]:
    """Read an archive's members one after the other."""
    tape = _Tape(file)
    try:
        # Any: tarfile asks for no more than read and tell as long as nothing is skipped.
        archive: Any = tarfile.TarFile(fileobj=tape, mode="r", errorlevel=2)  # type: ignore[arg-type]
        while (info := archive.next()) is not None:
            header = tape.take()
            if not info.isreg():
                yield _Member(header + tape.read(archive.offset - tape.tell()), "", b"")
                tape.take()
            else:
                content = _read_content(tape, info, path)
                yield _Member(header, info.name, content)
            # It keeps a list of all that it has seen.
            archive.members = []
    except tarfile.TarError as error:
        raise _broken(path, str(error)) from error
    _check_end(tape, file, path)


def _bounded(members: Iterable[_Member], path: Path) -> Iterator[_Member]:
    """Give the members of one sample, unless they are more than memory should hold."""
    num_bytes = 0
    for member in members:
        num_bytes += len(member.header) + len(member.content)
        if num_bytes > MAX_RECORD_BYTES:
            raise _broken(path, f"the sample of {member.name!r} has over {MAX_RECORD_BYTES} bytes")
        yield member


def _read_content(tape: _Tape, info: tarfile.TarInfo, path: Path) -> bytes:
    if info.size > MAX_RECORD_BYTES or info.issparse():
        raise _broken(path, f"its member {info.name!r} is sparse or has {info.size} bytes")
    content = tape.read(info.size)
    padding = tape.read(-info.size % _BLOCK_BYTES)
    if len(content) < info.size or len(padding) < -info.size % _BLOCK_BYTES:
        raise _broken(path, f"it breaks off in {info.name!r}")
    tape.take()
    return content


def _check_end(tape: _Tape, file: SourceStream, path: Path) -> None:
    """See that all of the file was read: what is no header is silently an end to tarfile."""
    end = tape.take()
    if not end:
        raise _broken(path, "it has no end; it may have been cut off")
    while end:
        if end.strip(b"\0"):
            raise _broken(path, "something that is no member follows")
        end = file.read(tarfile.RECORDSIZE)


def _end_of_members(path: Path) -> int:
    try:
        with tarfile.open(path, "r:") as opened:
            archive: Any = opened
            while archive.next() is not None:
                archive.members = []
            return int(archive.offset)
    except tarfile.TarError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, what: str) -> SourceFormatError:
    return SourceFormatError(
        f"{path} is not a readable tar: {what}.",
        hint="Fetch the file again; nothing of it was kept.",
    )


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _BLOCK_BYTES)


# --- samples ----------------------------------------------------------------------------------


def _record(row: int, key: str, members: list[_Member], progress: int) -> SourceRecord:
    value, fault = None, None
    try:
        value = _as_value(key, members)
    except BadRecordError as error:
        fault = error
    return SourceRecord(row, b"", value, fault, progress, tuple(members))


def _as_value(key: str, members: list[_Member]) -> dict[str, Any]:
    """Make a record of a sample: its JSON, or its text as a caption, with its images as bytes."""
    if not key:
        raise BadRecordError(
            QuarantineCode.BAD_ROW, f"{len(members)} members at the end are part of no sample"
        )
    by_kind = {member.kind: member.content for member in members if member.key == key}
    value: dict[str, Any] = {"id": key}
    for kind, content in by_kind.items():
        ending = kind.rpartition(".")[2]
        if ending in _TEXTS:
            value.setdefault("caption", _as_text(kind, content))
        elif ending == "json":
            value |= _parse(kind, content)
    images = {kind: content for kind, content in by_kind.items()
              if kind.rpartition(".")[2] in _IMAGES}  # fmt: skip
    if images:
        value["images"] = _in_named_order(value, images)
        value.pop("image", None)
    for name, endings in (("videos", _VIDEOS), ("audios", _AUDIOS)):
        found = [kind for kind in by_kind if kind.rpartition(".")[2] in endings]
        if found:
            value[name] = found
    return value


def _in_named_order(value: dict[str, Any], images: dict[str, bytes]) -> list[bytes]:
    """Give the images in the order in which the JSON names them; as they lie if it does not."""
    named = value.get("images", value.get("image"))
    names = [name for name in (named if isinstance(named, list) else [named])
             if isinstance(name, str)]  # fmt: skip
    ends = [next((kind for kind in images if name.lower().endswith(kind)), None) for name in names]
    order = [kind for kind in ends if kind is not None]
    if sorted(order) == sorted(images):
        return [images[kind] for kind in order]
    return list(images.values())


def _as_text(kind: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError(
            QuarantineCode.BAD_ROW, f"byte {error.start} of its {kind} is not UTF-8"
        ) from None


def _parse(kind: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(QuarantineCode.BAD_JSON, f"its {kind}: {error}"[:200]) from None
    # A list is one of turns.
    return value if isinstance(value, dict) else {"conversations": value}


def _as_json(member: _Member, known: set[str]) -> dict[str, str]:
    # Nearly all of a header is zeros.
    header = base64.b64encode(zlib.compress(member.header)).decode()
    stored = {"header": header, "name": member.name}
    digest = hashlib.sha256(member.content).hexdigest()
    if member.content and digest in known:
        return {**stored, "sha256": digest}
    return {**stored, "content": base64.b64encode(member.content).decode()}


def _from_json(stored: dict[str, str], images: dict[str, bytes]) -> _Member:
    if "sha256" in stored:
        content = images.get(stored["sha256"], _ELSEWHERE)
    else:
        content = base64.b64decode(stored["content"])
    header = zlib.decompress(base64.b64decode(stored["header"]))
    return _Member(header, stored["name"], content)
