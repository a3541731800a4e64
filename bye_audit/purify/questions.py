"""Samples as the model is asked about them again: the first image purified, all else as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.schema import ScoreStatus
from bye_audit.store.evidence import entropy_layers
from bye_audit.store.windows import Rows

if TYPE_CHECKING:
    from PIL import Image

    from bye_audit.model.prompts import ConversationEncoder
    from bye_audit.model.samples import PreparedSample
    from bye_audit.purify.purifiers import Purifier
    from bye_audit.store.tables import AuditTables


@dataclass(frozen=True, slots=True)
class Questions:
    """Some samples, ready for the model.

    Parameters
    ----------
    samples
        Model input, or why there is none.
    entropy_of
        By sample: entropies of each layer with the image as it is, in nats; NaN for null.
    """

    samples: list[PreparedSample]
    entropy_of: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class PurifiedReader:
    """Reads samples by row number from one fixed version of the table and purifies them.

    Parameters
    ----------
    tables, version
        The audit.
    encoder
        Of the provisional model.
    purifier
        Each image of a stretch is given to it once, whatever is asked about it.
    """

    tables: AuditTables
    version: int
    encoder: ConversationEncoder
    purifier: Purifier

    def read(self, rows: Rows) -> Questions:
        """Make model input of samples; what cannot be is put aside with its reason."""
        layers = [schema.entropy_column(n) for n in entropy_layers(self.tables.sample_columns())]
        columns = ["sample_id", "messages", "images", *layers]
        found = self.tables.take_samples(rows, columns, version=self.version).to_pylist()
        decoded = self._decode([digest for row in found for digest in row["images"]])
        purified = self._purify([row["images"][0] for row in found if row["images"]], decoded)
        return Questions(
            [self._prepare(row, decoded, purified) for row in found],
            {
                row["sample_id"]: np.array([row[name] for name in layers], dtype=np.float64)
                for row in found
            },
        )

    def _decode(self, digests: Sequence[str]) -> dict[str, Image.Image]:
        """Decode images, each once; those that cannot be are missing."""
        from bye_audit.model.prompts import ConversationError, decode_image

        decoded = {}
        for digest, data in self.tables.load_images(digests).items():
            with suppress(ConversationError):
                decoded[digest] = decode_image(data)
        return decoded

    def _purify(
        self, digests: Sequence[str], decoded: Mapping[str, Image.Image]
    ) -> dict[str, Image.Image]:
        from PIL.Image import fromarray

        wanted = [digest for digest in dict.fromkeys(digests) if digest in decoded]
        purified = self.purifier.purify([np.asarray(decoded[digest]) for digest in wanted])
        return {digest: fromarray(image) for digest, image in zip(wanted, purified, strict=True)}

    def _prepare(
        self,
        row: Mapping[str, Any],
        decoded: Mapping[str, Image.Image],
        purified: Mapping[str, Image.Image],
    ) -> PreparedSample:
        from bye_audit.model.prompts import Conversation
        from bye_audit.model.samples import prepare_sample, set_aside

        sample_id, digests = row["sample_id"], row["images"]
        if not digests or any(digest not in decoded for digest in digests):
            return set_aside(sample_id, ScoreStatus.ERROR, "an image cannot be decoded")
        first, *others = digests
        conversation = Conversation(
            row["messages"],
            [purified[first], *(decoded[digest] for digest in others)],
            # A name of its own: it is another image than the one of the same bytes.
            [f"{self.purifier.name} {first}", *others],
        )
        return prepare_sample(self.encoder, sample_id, conversation, "first")
