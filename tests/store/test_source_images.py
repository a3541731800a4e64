"""Images of a hostile dataset: no way out of the folder, no file read that is no image."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from support.sources import draw_png

from bye_audit.schema import QuarantineCode
from bye_audit.store.sources import images
from bye_audit.store.sources.conversation import BadRecordError, ImageReference
from bye_audit.store.sources.images import ImageLoader, inspect_image, relative_path

Q = QuarantineCode


def jpeg(size: int = 96) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 80).convert("RGB").save(buffer, format="JPEG")
    return buffer.getvalue()


def giant_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    content = draw_png(1)[0]
    (root / "a.png").write_bytes(content)
    (root / "sub" / "b.png").write_bytes(jpeg())
    (root / "train.json").write_bytes(content)
    (tmp_path / "secret.png").write_bytes(content)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "in.png").symlink_to(root / "a.png")
    (root / "empty.png").touch()
    (root / "page.png").write_text("<html>404</html>")
    (root / "cut.jpg").write_bytes(jpeg()[:-400])
    (root / "bomb.png").write_bytes(giant_png())
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize("path", ["a.png", "./a.png", "sub/../a.png", "in.png", "sub/b.png"])
def test_files_inside_the_root_load(root: Path, path: str) -> None:
    loader = ImageLoader(root, set())
    assert loader.load(ImageReference(text=path)) in loader.new


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../secret.png", Q.PATH_ESCAPES_ROOT),
        ("sub/../../secret.png", Q.PATH_ESCAPES_ROOT),
        ("out.png", Q.PATH_ESCAPES_ROOT),
        ("/etc/passwd", Q.PATH_ESCAPES_ROOT),
        ("file:///etc/passwd", Q.PATH_ESCAPES_ROOT),
        ("..", Q.PATH_ESCAPES_ROOT),
        ("none.png", Q.IMAGE_MISSING),
        ("sub", Q.IMAGE_MISSING),
        ("pipe.png", Q.IMAGE_MISSING),
        ("x" * 5000, Q.IMAGE_MISSING),
        ("a\0.png", Q.BAD_IMAGE_FIELD),
        ("train.json", Q.BAD_IMAGE_FIELD),
        ("TRAIN.JSON/a.png", Q.BAD_IMAGE_FIELD),
        ("empty.png", Q.IMAGE_EMPTY),
        ("page.png", Q.IMAGE_UNDECODABLE),
        ("cut.jpg", Q.IMAGE_UNDECODABLE),
        ("bomb.png", Q.DECOMPRESSION_BOMB),
        ("https://example.org/a.png", Q.IMAGE_REMOTE),
        ("s3://bucket/a.png", Q.IMAGE_REMOTE),
        ("data:image/png;base64,@@@@", Q.BAD_BASE64),
        ("data:image/png,abc", Q.BAD_BASE64),
        ("data:image/png;base64,", Q.IMAGE_EMPTY),
        ("data:image/png;base64,AAAA", Q.IMAGE_UNDECODABLE),
    ],
)
def test_what_is_no_image_has_a_code(root: Path, path: str, code: QuarantineCode) -> None:
    with pytest.raises(BadRecordError) as caught:
        ImageLoader(root, set(), "train.json").load(ImageReference(text=path))
    assert caught.value.code == code
    assert str(root) not in caught.value.detail


def test_an_absolute_path_inside_the_root_loads(root: Path) -> None:
    loader = ImageLoader(root, set())
    assert loader.load(ImageReference(text=str(root / "a.png")))


def test_the_same_image_is_stored_once_however_it_is_named(root: Path) -> None:
    content = (root / "a.png").read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    known: set[str] = set()
    loader = ImageLoader(root, known)
    digests = {
        loader.load(reference)
        for reference in (
            ImageReference(text="a.png"),
            ImageReference(text="in.png"),
            ImageReference(text=url),
            ImageReference(content=content),
        )
    }
    assert len(digests) == len(loader.new) == 1
    loader.mark_stored()
    assert known == digests
    loader.load(ImageReference(text="./a.png"))
    assert not loader.new


def test_large_files_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 100)
    for reference in (ImageReference(text="a.png"), ImageReference(content=b"x" * 101)):
        with pytest.raises(BadRecordError) as caught:
            ImageLoader(root, set()).load(reference)
        assert caught.value.code == Q.DECOMPRESSION_BOMB


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_common_formats_decode(name: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(buffer, format=name)
    assert inspect_image(buffer.getvalue()) == (name, 30, 20)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("a/../b.png", "b.png"),
        ("../b.png", None),
        ("/b.png", None),
        ("C:\\b.png", None),
        ("C:b.png", None),
        (".", None),
        ("a\0", None),
    ],
)
def test_relative_paths(text: str, normal: str | None) -> None:
    assert relative_path(text) == normal
