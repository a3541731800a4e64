"""Files that are there whole, or as they were before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bye_audit.errors import StorageError
from bye_audit.store.whole_files import read_json, write_json, write_whole


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_whole(path, b"first, and longer")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"kept": True})

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="disk is full"):
        write_json(path, {"kept": False})
    assert read_json(path) == {"kept": True}
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(path, b"through it")
        assert os.read(reader, 100) == b"through it"
    finally:
        os.close(reader)
    assert path.is_fifo()


def test_no_file_can_be_where_a_directory_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a directory") as caught:
        write_whole(tmp_path, b"content")
    assert "--out" in caught.value.hint
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Could not write"):
        write_whole(tmp_path / "file" / "inside", b"content")


def test_a_broken_file_reads_as_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_json(path) is None
    path.write_bytes(b'{"half": ')
    assert read_json(path) is None
    path.write_bytes(b"[1]")
    assert read_json(path) is None
