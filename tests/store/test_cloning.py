"""A table of images that refers to another audit's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.canaries import digests_of
from support.stored import add_sample, make_audit

from bye_audit.errors import StorageError
from bye_audit.store.cloning import clone_images
from bye_audit.store.tables import AuditTables


def test_a_clone_reads_the_others_images_from_anywhere_and_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_audit(Path("audit"), 5)
    before = digests_of(tmp_path / "audit")
    clone_images(AuditTables.open("audit"), Path("copy"))
    monkeypatch.chdir("/")
    copy = AuditTables.create(tmp_path / "copy")
    assert copy.num_samples() == 0
    add_sample(copy, "s:9", "What?", "red", b"its own")
    monkeypatch.chdir(tmp_path)
    digests = source.image_digests()
    assert copy.image_digests() > digests
    found = copy.load_images(sorted(copy.image_digests()))
    assert {digest: found[digest] for digest in digests} == source.load_images(sorted(digests))
    copy.compact()
    assert digests_of(tmp_path / "audit") == before


def test_images_of_an_object_store_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="local disk") as raised:
        clone_images(AuditTables("s3://bucket/audit"), tmp_path / "copy")
    assert raised.value.hint
