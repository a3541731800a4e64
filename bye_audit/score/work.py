"""What is still to be scored, in which order, and how it is read.

Questions about one image are brought together, so that the image is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from bye_audit.config import ScoreConfig
from bye_audit.schema import ScoreStatus
from bye_audit.store import windows
from bye_audit.store.tables import AuditTables
from bye_audit.store.windows import Rows

if TYPE_CHECKING:
    from PIL import Image

    from bye_audit.model.prompts import ConversationEncoder
    from bye_audit.model.samples import PreparedSample

Answers = Literal["none", "first", "all"]
WINDOW = 128
"""Samples read at once: their images are in memory together, no others."""


def answers_wanted(config: ScoreConfig) -> Answers:
    """Tell how much of what follows a prompt has to go through the model with it."""
    if config.turns == "all":
        return "all"
    return "first" if config.plausibility else "none"


def plan_windows(tables: AuditTables, *, retries_errors: bool) -> list[Rows]:
    """Row numbers of the samples still to be scored, in stretches of `WINDOW`."""

    def is_to_do(batch: pa.RecordBatch) -> pa.BooleanArray:
        status = batch["score_status"]
        if not retries_errors:
            return pc.is_null(status)
        failed = pc.fill_null(pc.equal(status, str(ScoreStatus.ERROR)), fill_value=False)
        return pc.or_(pc.is_null(status), failed)

    return windows.plan_windows(tables, ["score_status"], is_to_do, WINDOW)


@dataclass(frozen=True)
class WindowReader:
    """Reads samples by row number from one fixed version of the table, and encodes them.

    Can be sent to another process.
    """

    tables: AuditTables
    version: int
    encoder: ConversationEncoder
    answers: Answers

    def read(self, rows: Sequence[int] | Rows) -> list[PreparedSample]:
        """Make model input of samples; what cannot be is put aside with its reason."""
        from bye_audit.model.prompts import Conversation, ConversationError, decode_image
        from bye_audit.model.samples import prepare_sample, set_aside

        table = self.tables.take_samples(
            rows, ["sample_id", "messages", "images", "unscorable"], version=self.version
        )
        found = table.to_pylist()
        data = self.tables.load_images([digest for row in found for digest in row["images"]])
        # Decoded once for all questions; the encoder knows an image by its identity.
        decoded: dict[str, Image.Image] = {}
        prepared = []
        for row in found:
            sample_id, digests = row["sample_id"], row["images"]
            if row["unscorable"]:
                reason = f"it has {row['unscorable']}"
                prepared.append(set_aside(sample_id, ScoreStatus.NOT_SCORABLE, reason))
                continue
            if not digests:
                prepared.append(set_aside(sample_id, ScoreStatus.NOT_SCORABLE, "no image"))
                continue
            try:
                for digest in digests:
                    if digest not in decoded:
                        decoded[digest] = decode_image(data[digest])
            except ConversationError as error:
                prepared.append(set_aside(sample_id, ScoreStatus.ERROR, str(error)))
                continue
            conversation = Conversation(row["messages"], [decoded[d] for d in digests], digests)
            prepared.append(prepare_sample(self.encoder, sample_id, conversation, self.answers))
        return prepared
