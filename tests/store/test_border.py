"""What storage engines raise reaches the user as one sentence with a next step."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from bye_audit.errors import StageNotRunError, StorageError
from bye_audit.store.border import storage_errors
from bye_audit.store.tables import AuditTables


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "the disk is full"),
        (OSError("LanceError(IO): No space left (os error 28), /a/b.rs:1:2"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "not permitted"),
        (OSError("LanceError(IO): Read-only file system (os error 30)"), "not permitted"),
        (pa.ArrowInvalid("odd bytes"), "odd bytes"),
        (RuntimeError("what\nnow, /src/x.rs:10:4"), "what now"),
    ],
)  # fmt: skip
def test_faults_become_sentences(error: Exception, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught, storage_errors("write scores"):
        raise error
    assert "write scores" in str(caught.value)
    assert caught.value.hint
    assert ".rs:" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_a_missing_stage() -> None:
    text = "Schema error: No field named entropy_07. Valid fields are sample_id"
    with pytest.raises(StageNotRunError, match="entropy_07") as caught, storage_errors("read"):
        raise OSError(text)
    assert "bye-audit score" in caught.value.hint


def test_our_own_errors_and_interrupts_pass_unchanged() -> None:
    for kind in (KeyboardInterrupt, AssertionError, ZeroDivisionError):
        with pytest.raises(kind), storage_errors("read"):
            raise kind
    inner = StorageError("inner", hint="h")
    with pytest.raises(StorageError) as caught, storage_errors("read"):
        raise inner
    assert caught.value is inner


@pytest.mark.parametrize("folder", ["data", "_versions"])
def test_damaged_tables_are_a_sentence(tmp_path: Path, folder: str) -> None:
    tables = AuditTables.create(tmp_path / "audit")
    tables.record_run("score", {})
    for file in (tmp_path / "audit" / "runs.lance" / folder).iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(StorageError) as caught:
        tables.runs()
    assert caught.value.hint
