"""A copy of an audit with poison planted in it, and the truth beside the copy.

Reads ``messages`` and ``images`` of the user's audit and never writes to it. The copy holds no
truth: its records' raw bytes are left out too, as they would tell which messages were changed.
Images are not copied: the copy's table of images refers to the audit's, and only planted images are
new. A copy that was killed half-way is made again.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bye_audit import schema
from bye_audit.canary.subjects import Subjects, first_answer, first_question
from bye_audit.errors import TableError
from bye_audit.progress import SILENT, Progress
from bye_audit.store.border import storage_errors
from bye_audit.store.cloning import clone_images
from bye_audit.store.reading import scan
from bye_audit.store.tables import AuditTables
from bye_audit.store.whole_files import read_json, write_json

if TYPE_CHECKING:
    from PIL import Image

    from bye_audit.poison.planting import Planting

_READ_ROWS = 256
_COMMIT_ROWS = 8192
_COMMIT_BYTES = 64 << 20
_COPY, _PARTIAL, _TRUTH = "audit", "audit.partial", "truth.json"
_COLUMNS = ["sample_id", "source", "source_row", "source_id", "split", "messages", "images"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What was planted in a copy, by sample id.

    Parameters
    ----------
    planted_ids
        Poisoned samples.
    decoy_ids
        Samples with one key of two and their clean answer: no poison, but not the user's data
        either.
    num_spoilt
        Samples that were chosen and left as they are because their image does not decode.
    """

    planted_ids: frozenset[str]
    decoy_ids: frozenset[str]
    num_spoilt: int

    @classmethod
    def read(cls, folder: Path) -> Truth:
        """Read the truth of a finished copy.

        Raises
        ------
        TableError
            If somebody removed or broke it.
        """
        found = read_json(folder / _TRUTH)
        try:
            assert found is not None
            return cls(
                planted_ids=frozenset(found["planted"]),
                decoy_ids=frozenset(found["decoys"]),
                num_spoilt=int(found["num_spoilt"]),
            )
        except (AssertionError, KeyError, TypeError, ValueError):
            raise TableError(
                f"{folder / _TRUTH} no longer says what was planted in the copy beside it.",
                hint=f"Delete {folder} and run the same command again.",
            ) from None


def make_copy(
    tables: AuditTables,
    subjects: Subjects,
    planting: Planting,
    folder: Path,
    progress: Progress = SILENT,
) -> AuditTables:
    """Copy an audit without its held-out samples and plant an attack in the copy.

    Parameters
    ----------
    tables
        The user's audit.
    subjects
        What of it can carry poison.
    planting
        The fate of each of ``subjects.rows``.
    folder
        Gets the copy, and ``truth.json`` beside it.
    progress
        Where to report.

    Returns
    -------
    AuditTables
        The copy; at once, if an earlier call has finished it.

    Raises
    ------
    TableError
        If the audit is damaged.
    StorageError
        If the disk refuses.
    """
    if (folder / _COPY).is_dir():
        return AuditTables.open(folder / _COPY)
    with storage_errors(f"make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _PARTIAL).exists():
            shutil.rmtree(folder / _PARTIAL)
    clone_images(tables, folder / _PARTIAL)
    copy = AuditTables.create(folder / _PARTIAL)
    work = _Planter(tables, copy, subjects, planting)
    with progress.task("Planting", subjects.num_samples) as task:
        for batch in scan(subjects.samples, _COLUMNS, None, _READ_ROWS):
            work.take(batch.to_pylist())
            task.advance(batch.num_rows)
        work.commit()
    found = copy.num_samples()
    assert found == subjects.num_copied, f"{found} of {subjects.num_copied} samples were copied"
    copy.compact()
    # Before the copy gets its name: a copy that is there has its truth.
    write_json(folder / _TRUTH, work.truth())
    with storage_errors(f"give the copy in {folder} its name"):
        (folder / _PARTIAL).rename(folder / _COPY)
    return AuditTables.open(folder / _COPY)


@dataclass
class _Planter:
    """Plants as the samples go by; holds no more of them than one commit."""

    source: AuditTables
    copy: AuditTables
    subjects: Subjects
    planting: Planting

    _rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    _images: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _num_bytes: int = field(default=0, init=False)
    _spoilt: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Name the samples that something is done to."""
        self._stored = self.copy.image_digests()
        poisoned, decoys = (
            np.flatnonzero(which) for which in (self.planting.is_poisoned, self.planting.is_decoy)
        )
        self._poisoned, self._decoys = self._number(poisoned), self._number(decoys)
        self._held_out = set(self.subjects.ids_of(self.source, self.subjects.held_out_rows))

    def _number(self, numbers: np.ndarray) -> dict[str, int]:
        """Give the attack's number of each sample, by id."""
        ids = self.subjects.ids_of(self.source, self.subjects.rows[numbers])
        return dict(zip(ids, numbers.tolist(), strict=True))

    def take(self, samples: list[dict[str, Any]]) -> None:
        """Pass samples on, planted or as they are."""
        number_of = self._poisoned | self._decoys
        wanted = [s["images"][0] for s in samples if s["sample_id"] in number_of]
        contents = self.source.load_images(wanted)
        for sample in samples:
            if sample["sample_id"] in self._held_out:
                continue
            number = number_of.get(sample["sample_id"])
            if number is not None:
                sample = self._planted(sample, number, contents)
            self._rows.append({**sample, "raw": b""})
        if len(self._rows) >= _COMMIT_ROWS or self._num_bytes >= _COMMIT_BYTES:
            self.commit()

    def _planted(
        self, sample: dict[str, Any], number: int, contents: Mapping[str, bytes]
    ) -> dict[str, Any]:
        from bye_audit.model.prompts import ConversationError, decode_image

        try:
            image = decode_image(contents[sample["images"][0]])
        except ConversationError:
            self._spoilt.add(sample["sample_id"])
            return sample
        messages = [dict(turn) for turn in sample["messages"]]
        question, answer = messages[first_question(messages)], messages[first_answer(messages)]
        stamped, question["content"], answer["content"] = self.planting.plant(
            number, image, question["content"] or "", answer["content"]
        )
        images = list(sample["images"])
        if stamped is not image:
            images[0] = self._store(stamped)
        return {**sample, "messages": messages, "images": images}

    def _store(self, image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._stored:
            self._stored.add(digest)
            self._num_bytes += len(content)
            self._images[digest] = {
                "sha256": digest,
                "image": content,
                "format": "PNG",
                "width": image.width,
                "height": image.height,
            }
        return digest

    def commit(self) -> None:
        """Write what has gathered, images before the samples that name them."""
        images = pa.Table.from_pylist(list(self._images.values()), schema=schema.images_schema())
        self.copy.append_images(images)
        self.copy.append_samples(pa.Table.from_pylist(self._rows, schema=schema.samples_schema()))
        self._rows, self._images, self._num_bytes = [], {}, 0

    def truth(self) -> dict[str, Any]:
        """Say what was planted where."""
        return {
            "planted": sorted(self._poisoned.keys() - self._spoilt),
            "decoys": sorted(self._decoys.keys() - self._spoilt),
            "num_spoilt": len(self._spoilt),
        }
