"""A table of images that holds no image of its own."""

from __future__ import annotations

from pathlib import Path

import lance

from bye_audit import schema
from bye_audit.errors import StorageError
from bye_audit.store.border import storage_errors
from bye_audit.store.tables import AuditTables


def clone_images(source: AuditTables, target_dir: Path) -> None:
    """Make a table of images in a new folder that refers to another audit's image files.

    The clone takes no room; what is appended to it is its own. Nothing is written to the other
    audit, which must stay where it is.

    Parameters
    ----------
    source
        The audit whose images are shared.
    target_dir
        The folder of the audit to be; made if missing. It must have no table of images yet.

    Raises
    ------
    StorageError
        If the audit is not on a local disk, or the disk refuses.
    """
    if "://" in source.uri:
        raise StorageError(
            f"{source.uri} is not on a local disk, so its images cannot be shared with a copy.",
            hint="Use a local audit directory.",
        )
    name = f"{schema.IMAGES}.lance"
    with storage_errors(f"share the images of {source.uri}"):
        target_dir.mkdir(parents=True, exist_ok=True)
        # The clone keeps the path it was made with: a relative one would only hold from here.
        images = lance.dataset(str(Path(source.uri).resolve() / name))
        images.shallow_clone(str(target_dir.resolve() / name), images.version)
