"""Images as a dataset gives them: found inside one folder, decoded under limits, never trusted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from PIL import Image

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources.conversation import BadRecordError, ImageReference

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 128 << 20
_CACHED_PATHS = 1_000_000
_DRAFT_SHRINK = 8
# What is too large is refused here; and a broken head is no news, as the whole image is decoded.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class CheckedImage:
    """An image that decodes to its end."""

    sha256: str
    content: bytes
    format: str
    width: int
    height: int


def split_data_url(text: str) -> tuple[str, str] | None:
    """Divide a base64 ``data:`` URL into its head and its payload; None if it is no such URL."""
    if text[:5].lower() != "data:":
        return None
    head, comma, payload = text.partition(",")
    return head + comma, payload


def relative_path(text: str) -> str | None:
    """Normalise a reference that is a relative path staying in its folder; None for others."""
    if "\0" in text or PureWindowsPath(text).drive or PurePosixPath(text).is_absolute():
        return None
    normal = os.path.normpath(text)
    return None if normal in (".", "..") or normal.startswith("../") else normal


class ImageLoader:
    """Fetches the images that records name and checks each distinct one once.

    Parameters
    ----------
    root
        The folder no path may leave, not even through symbolic links.
    known
        Digests of images stored already; `mark_stored` adds to it.
    reserved_name
        Name of the source file: an image path that begins with it could not be written beside
        the exported source.
    """

    def __init__(self, root: Path, known: set[str], reserved_name: str = "") -> None:
        self._root = os.path.realpath(root)
        self._known = known
        self._reserved = reserved_name.casefold()
        self._by_path: dict[str, str] = {}
        self._fetched: dict[ImageReference, CheckedImage | BadRecordError] = {}
        self.new: dict[str, CheckedImage] = {}
        """Checked images that are not stored yet, by digest."""
        self.new_bytes = 0

    def mark_stored(self) -> None:
        """Say that all new images are stored now."""
        self._known.update(self.new)
        self.new, self.new_bytes = {}, 0

    def estimate_bytes(self, reference: ImageReference) -> int:
        """Tell about how much memory it takes to load an image."""
        if reference.content is not None:
            return len(reference.content)
        text = reference.text or ""
        if text in self._by_path or split_data_url(text) is not None:
            return len(text)
        try:
            return os.stat(os.path.join(self._root, text)).st_size  # noqa: PTH116, PTH118 - hot
        except (OSError, ValueError):
            return len(text)

    def fetch(self, references: Iterable[ImageReference], pool: Executor) -> None:
        """Load and check images side by side; what they are is told by `load`."""
        wanted = [one for one in dict.fromkeys(references) if one.text not in self._by_path]
        self._fetched = dict(zip(wanted, pool.map(self._try_to_check, wanted), strict=True))

    def load(self, reference: ImageReference) -> str:
        """Load and check one image, and give its sha256.

        Raises
        ------
        BadRecordError
            With the code of what is wrong.
        """
        text = reference.text
        is_path = reference.content is None and text is not None and not split_data_url(text)
        if is_path and text in self._by_path:
            return self._by_path[text]
        found = self._fetched.get(reference) or self._try_to_check(reference)
        if isinstance(found, BadRecordError):
            raise found
        digest = found.sha256
        if digest not in self._known and digest not in self.new:
            self.new[digest] = found
            self.new_bytes += len(found.content)
        if is_path and text is not None:
            if len(self._by_path) >= _CACHED_PATHS:
                self._by_path.clear()
            self._by_path[text] = digest
        return digest

    def _try_to_check(self, reference: ImageReference) -> CheckedImage | BadRecordError:
        try:
            return self._check(*self._read_content(reference))
        except BadRecordError as fault:
            return fault

    def _read_content(self, reference: ImageReference) -> tuple[bytes, str]:
        """Give an image's bytes, and what to call it in a fault."""
        if reference.content is not None:
            return reference.content, "the embedded image"
        assert reference.text is not None, "a reference has bytes or text"
        text = reference.text
        data = split_data_url(text)
        if data is not None:
            return _decode_base64(*data), "the data: URL"
        scheme, colon, _ = text.partition("://")
        if colon and scheme.lower() != "file":
            raise BadRecordError(
                QuarantineCode.IMAGE_REMOTE, f"{_clip(text)} would have to be downloaded"
            )
        return self._read(text), _clip(text)

    def _read(self, text: str) -> bytes:
        path = self._resolve(text)
        try:
            # Not blocking, so that a named pipe put there cannot make ingest wait for ever.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):
            raise BadRecordError(
                QuarantineCode.IMAGE_MISSING, f"there is no readable file {_clip(text)}"
            ) from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise BadRecordError(QuarantineCode.IMAGE_MISSING, f"{_clip(text)} is not a file")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > MAX_IMAGE_BYTES:
                raise BadRecordError(
                    QuarantineCode.DECOMPRESSION_BOMB,
                    f"{_clip(text)} has {status.st_size} bytes, more than {MAX_IMAGE_BYTES}",
                )
            return file.read()

    def _resolve(self, text: str) -> str:
        path = unquote(text[7:]) if text[:7].lower() == "file://" else text
        if "\0" in path:
            raise BadRecordError(QuarantineCode.BAD_IMAGE_FIELD, "the image path has a NUL")
        normal = relative_path(path)
        if normal is not None and self._reserved == normal.partition("/")[0].casefold():
            raise BadRecordError(
                QuarantineCode.BAD_IMAGE_FIELD, "the image path begins with the source's own name"
            )
        try:
            resolved = os.path.realpath(os.path.join(self._root, path))  # noqa: PTH118
            inside = os.path.commonpath([resolved, self._root]) == self._root
        except (OSError, ValueError):
            inside, resolved = False, ""
        if not inside or (normal is None and not os.path.isabs(path)):  # noqa: PTH117
            raise BadRecordError(
                QuarantineCode.PATH_ESCAPES_ROOT, f"{_clip(text)} is outside the image folder"
            )
        return resolved

    def _check(self, content: bytes, where: str) -> CheckedImage:
        if not content:
            raise BadRecordError(QuarantineCode.IMAGE_EMPTY, f"{where} is empty")
        if len(content) > MAX_IMAGE_BYTES:
            raise BadRecordError(
                QuarantineCode.DECOMPRESSION_BOMB,
                f"{where} has {len(content)} bytes, more than {MAX_IMAGE_BYTES}",
            )
        digest = hashlib.sha256(content).hexdigest()
        if digest in self._known or digest in self.new:
            # Checked before.
            return CheckedImage(digest, content, "", 0, 0)
        return CheckedImage(digest, content, *inspect_image(content, where))


def inspect_image(content: bytes, where: str = "the image") -> tuple[str, int, int]:
    """Decode an image to its end and tell format, width and height.

    Raises
    ------
    BadRecordError
        If it does not decode, or has more than ``MAX_IMAGE_PIXELS``.
    """
    try:
        found = _decode(content)
    except Image.DecompressionBombError:
        found = None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise BadRecordError(
            QuarantineCode.IMAGE_UNDECODABLE, f"{where} does not decode ({type(error).__name__})"
        ) from None
    if found is None:
        raise BadRecordError(
            QuarantineCode.DECOMPRESSION_BOMB, f"{where} has more than {MAX_IMAGE_PIXELS} pixels"
        )
    return found


def _decode(content: bytes) -> tuple[str, int, int] | None:
    """Decode all of an image that is not too large; None if it is."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_IMAGE_PIXELS:
            return None
        # A reduced JPEG decode still reads to the end of the file, which verify() does not.
        image.draft("RGB", (width // _DRAFT_SHRINK, height // _DRAFT_SHRINK))
        image.load()
        return str(image.format), width, height


def _decode_base64(head: str, payload: str) -> bytes:
    if ";base64," not in head.lower():
        raise BadRecordError(QuarantineCode.BAD_BASE64, "the data: URL is not base64")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadRecordError(QuarantineCode.BAD_BASE64, "the base64 text is broken") from None


def _clip(text: str, limit: int = 120) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
