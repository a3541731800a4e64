"""Names, units and Arrow types of everything stored: the only place that spells a column."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 2
SCHEMA_VERSION_KEY = "bye_audit.schema_version"

SAMPLES = "samples"
IMAGES = "images"
QUARANTINE = "quarantine"
HEAD_SCORES = "head_scores"
TURN_SCORES = "turn_scores"
TRIGGERS = "triggers"
PATCHES = "patches"
RUNS = "runs"
TABLES = (SAMPLES, IMAGES, QUARANTINE, HEAD_SCORES, TURN_SCORES, TRIGGERS, PATCHES, RUNS)

PATCH_DIMENSION = 32
"""Size of the vector of an image patch."""

IMAGE_PLACEHOLDER = "<image>"


class ScoreStatus(StrEnum):
    """What became of a sample in ``score``; null means it is still to do."""

    OK = "ok"
    NOT_SCORABLE = "not_scorable"
    ERROR = "error"


class Verdict(StrEnum):
    """What ``filter`` decided for one sample."""

    KEEP = "keep"
    REMOVE = "remove"
    NOT_SCORED = "not_scored"


class Decision(StrEnum):
    """What ``filter`` says of the whole dataset."""

    NO_EVIDENCE = "no_evidence"
    INCONCLUSIVE = "inconclusive"
    POISON_SUSPECTED = "poison_suspected"


class Intervention(StrEnum):
    """What ``confirm`` found out about one sample; null means that it was not asked.

    Triggered: it answers so because of a confirmed trigger. Content: it answers as that trigger
    makes it, and the base model sees the answer in it. Unknown: it answers so, and neither was
    found. Unlearnt: the model gives other samples their answers and no sample this one, which
    many share, so that nothing in them leads to it.
    """

    TRIGGERED = "triggered"
    CONTENT = "content"
    UNKNOWN = "unknown"
    UNLEARNT = "unlearnt"


class Finding(StrEnum):
    """What ``confirm`` found out about a group of suspects.

    Shown: the base model, which never saw the data, sees the answer in most of the suspects. Not
    learnt: the model does not give the suspects' answers itself, so it cannot be asked about them.
    Not asked: nothing was confirmed so far, and the questions, perhaps in the middle of this group,
    used up what asking may cost.
    """

    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    SHOWN = "shown"
    NOT_LEARNT = "not_learnt"
    NOT_ASKED = "not_asked"


class Reason(StrEnum):
    """Why a sample has its verdict."""

    LOW_ENTROPY = "low_attention_entropy"
    IMPLAUSIBLE_ANSWER = "implausible_answer"
    PURIFIED_AWAY = "answer_lost_with_image_detail"
    WITNESSES_AGREE = "witnesses_agree"
    ATTENTION_ALLOCATION = "unusual_attention_of_heads"
    RANDOM_DROP = "dropped_at_random"
    NOT_SUSPICIOUS = "not_suspicious"
    NO_DECISION = "dataset_decision_removes_nothing"
    NOT_SCORABLE = "not_scorable"
    UNSEEN_MEDIA = "unseen_media"
    SCORE_ERROR = "score_error"


class QuarantineCode(StrEnum):
    """Why a source record could not become a sample."""

    BAD_JSON = "bad_json"
    BAD_ROW = "bad_row"
    NOT_AN_OBJECT = "not_an_object"
    BAD_CONVERSATION = "bad_conversation"
    BAD_IMAGE_FIELD = "bad_image_field"
    IMAGE_MISSING = "image_missing"
    IMAGE_EMPTY = "image_empty"
    IMAGE_UNDECODABLE = "image_undecodable"
    IMAGE_REMOTE = "image_remote"
    DECOMPRESSION_BOMB = "decompression_bomb"
    PATH_ESCAPES_ROOT = "path_escapes_root"
    BAD_BASE64 = "bad_base64"
    PLACEHOLDER_MISMATCH = "placeholder_mismatch"


def entropy_column(layer: int) -> str:
    """Name of the column with one decoder layer's attention entropy, in nats."""
    return f"entropy_{layer:02d}"


def image_mass_column(layer: int) -> str:
    """Name of the column with one layer's share of attention on image tokens, in [0, 1]."""
    return f"image_mass_{layer:02d}"


ANSWER_LOGP_COLUMNS = (
    "answer_logp",
    "answer_logp_first",
    "answer_logp_min",
    "answer_logp_base",
    "answer_logp_base_first",
    "answer_logp_base_min",
)
"""Log-likelihood of a sample's own answer in nats: mean over its tokens, of the first and of the
least likely; under the provisional model, then under its base."""
ENTROPY_PREFIX = "entropy_"
IMAGE_MASS_PREFIX = "image_mass_"
SCORE_COLUMNS = ("score_status", "score_error", "score_run")
INTERVENTION_COLUMNS = ("intervention", "intervention_drop", "confirm_run")
PURIFIED_LOGP_COLUMNS = (
    "purified_answer_logp",
    "purified_answer_logp_first",
    "purified_answer_logp_base",
    "purified_answer_logp_base_first",
)
"""The columns of the same names without ``purified_``, with the first image purified."""
PURIFIED_COLUMNS = (*PURIFIED_LOGP_COLUMNS, "purified_entropy_shift", "purify_run")
VERDICT_COLUMNS = (
    "verdict",
    "reason",
    "suspicion",
    "detector_score",
    "witnesses",
    "filter_run",
)


def message_type() -> pa.DataType:
    """One turn of a conversation; ``role`` is system, user or assistant."""
    import pyarrow as pa

    return pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])


def samples_schema() -> pa.Schema:
    """Columns every sample has after ingest; later stages add theirs, null until filled."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            pa.field("source_id", pa.string()),
            pa.field("split", pa.string()),
            pa.field("messages", pa.list_(message_type()), nullable=False),
            pa.field("images", pa.list_(pa.string()), nullable=False),
            # What else it holds, such as a video; null where a model can be asked about all of it.
            pa.field("unscorable", pa.string()),
            pa.field("raw", pa.large_binary(), nullable=False),
        ],
        metadata={SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)},
    )


def images_schema() -> pa.Schema:
    """Images stored once by the sha256 of their own bytes."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("image", pa.large_binary(), nullable=False),
            pa.field("format", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
        ],
        metadata={SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)},
    )


def quarantine_schema() -> pa.Schema:
    """Source records that could not become samples, with the reason."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            pa.field("code", pa.string(), nullable=False),
            pa.field("detail", pa.string(), nullable=False),
            pa.field("raw", pa.large_binary()),
        ],
        metadata={SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)},
    )


def head_scores_schema() -> pa.Schema:
    """Per-head statistics of one score run, layer-major lists of layers x heads values.

    Nulls inside a list stand for a head that gives the image no attention at all.
    """
    import pyarrow as pa

    values = pa.list_(pa.float16())
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("score_run", pa.string(), nullable=False),
            pa.field("num_layers", pa.int32(), nullable=False),
            pa.field("num_heads", pa.int32(), nullable=False),
            pa.field("num_image_tokens", pa.int32(), nullable=False),
            pa.field("image_entropy", values, nullable=False),
            pa.field("system_mass", values, nullable=False),
            pa.field("image_mass", values, nullable=False),
            pa.field("text_mass", values, nullable=False),
        ],
        metadata={SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)},
    )


def turn_scores_schema() -> pa.Schema:
    """One row per later answer of a conversation and run; made where all turns are scored."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("score_run", pa.string(), nullable=False),
            pa.field("turn", pa.int32(), nullable=False),
            pa.field("num_image_tokens", pa.int32(), nullable=False),
            pa.field("entropy", pa.list_(pa.float32()), nullable=False),
            pa.field("image_mass", pa.list_(pa.float32()), nullable=False),
            pa.field("answer_logp", pa.float32()),
            pa.field("answer_logp_base", pa.float32()),
        ]
    )


def triggers_schema() -> pa.Schema:
    """One row per group of suspects that ``confirm`` investigated; made where it ran.

    ``record`` is JSON: what was tried on how many samples and how often it worked. ``crop`` is a
    PNG of what was carried over, null where that is no part of an image.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("confirm_run", pa.string(), nullable=False),
            pa.field("group", pa.int32(), nullable=False),
            pa.field("finding", pa.string(), nullable=False),
            pa.field("answer", pa.string(), nullable=False),
            pa.field("is_whole_answer", pa.bool_(), nullable=False),
            pa.field("kind", pa.string()),
            pa.field("num_suspects", pa.int32(), nullable=False),
            pa.field("record", pa.string(), nullable=False),
            pa.field("crop", pa.large_binary()),
        ]
    )


def patches_schema() -> pa.Schema:
    """One row per patch of an image; made where a confirmed trigger is looked for by its look.

    ``patch`` counts an image's patches in the model's order, from 0; of equal ones only the first
    is stored. ``vector`` is what the model's first layer makes of the patch, projected at random to
    fewer numbers; near is alike, in no unit.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("image", pa.string(), nullable=False),
            pa.field("patch", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), PATCH_DIMENSION), nullable=False),
        ]
    )


OPTIONAL_TABLES = {
    TURN_SCORES: turn_scores_schema,
    TRIGGERS: triggers_schema,
    PATCHES: patches_schema,
}
"""Schemas of the tables that are only made where there is something to put in."""


def runs_schema() -> pa.Schema:
    """One row a finished stage: what ran, on what, with which settings and outcome."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("finished_at", pa.string(), nullable=False),
            pa.field("record", pa.string(), nullable=False),
        ],
        metadata={SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)},
    )


def score_fields(num_layers: int, metadata: dict[str, str]) -> list[pa.Field]:
    """Columns ``score`` adds to ``samples``; each entropy column names its layer and run."""
    import pyarrow as pa

    fields = [pa.field(name, pa.string()) for name in SCORE_COLUMNS]
    fields.append(pa.field("num_image_tokens", pa.int32()))
    for make_name in (entropy_column, image_mass_column):
        fields += [
            pa.field(make_name(layer), pa.float32(), metadata={**metadata, "layer": str(layer)})
            for layer in range(num_layers)
        ]
    fields += [pa.field(name, pa.float32()) for name in ANSWER_LOGP_COLUMNS]
    return fields


def intervention_fields(run_id: str) -> list[pa.Field]:
    """Columns a run of ``confirm`` adds to ``samples``, null for samples that were not asked.

    ``intervention_drop`` is what taking a trigger off takes from the mean log-likelihood of the
    sample's own answer, in nats a token; higher is worse.
    """
    import pyarrow as pa

    return [
        pa.field("intervention", pa.string(), metadata={"run": run_id}),
        pa.field("intervention_drop", pa.float32()),
        pa.field("confirm_run", pa.string()),
    ]


def purified_fields(metadata: dict[str, str]) -> list[pa.Field]:
    """Columns ``purify`` adds to ``samples``; each value column names its purifier and run.

    Log-likelihoods are of the sample's own answer in nats, mean over its tokens or of the first,
    under the provisional model and under its base. ``purified_entropy_shift`` is what purifying
    adds to the attention entropy in nats, mean over the layers that have one; below 0 attention
    has narrowed. ``purify_run`` without values: the sample could not be asked.
    """
    import pyarrow as pa

    values = [pa.field(name, pa.float32(), metadata=metadata) for name in PURIFIED_COLUMNS[:-1]]
    return [*values, pa.field(PURIFIED_COLUMNS[-1], pa.string())]


def verdict_fields() -> list[pa.Field]:
    """Columns ``filter`` adds to ``samples``.

    ``suspicion`` is in [0, 1], higher is worse; ``detector_score`` is what the detector's mixture
    was fitted to (aggregated entropy, or likelihood gain). Both are null where there is no value.
    ``witnesses`` names who suspects the sample, where several were heard.
    """
    import pyarrow as pa

    return [
        pa.field("verdict", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("suspicion", pa.float32()),
        pa.field("detector_score", pa.float32()),
        pa.field("witnesses", pa.string()),
        pa.field("filter_run", pa.string()),
    ]
