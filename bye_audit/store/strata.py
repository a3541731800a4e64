"""Kinds of samples that may set them apart for innocent reasons, read by column name.

``question``, ``image_size`` and ``num_image_tokens`` were there before any model and are not taken
from the answer: splits may be looked for within them. ``answer_length``, ``source`` and
``image_copies`` are named beside a finding and excuse nothing
(:mod:`bye_audit.core.confounders`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bye_audit import schema
from bye_audit.core.confounders import UNKNOWN, Strata
from bye_audit.store.tables import AuditTables

MAX_EXACT = 64
"""Most distinct questions, image sizes or token counts that are kept apart one by one."""
MAX_KINDS = 32_000
"""Most kinds of anything; samples of further kinds are of none."""

_NAMES = (
    "question",
    "image_size",
    "num_image_tokens",
    "answer_length",
    "source",
    "image_copies",
)
_SCORED = f"score_status = '{schema.ScoreStatus.OK}'"
_BATCH_SIZE = 8192
_WORD = re.compile(r"\w+")
_LONGEST_WORD = 12
_LONGEST_LABEL = 60
_COPY_BOUNDS = (2, 10, 100)

CodeArray = NDArray[np.int16]


class StoredStrata(Mapping[str, Strata]):
    """Strata of the scored samples in table order, read when the first is asked for.

    Parameters
    ----------
    tables
        Reads ``messages``, ``images``, ``source`` and ``num_image_tokens`` of the samples, and
        width and height of the images.
    """

    def __init__(self, tables: AuditTables) -> None:
        self._tables = tables
        self._strata: dict[str, Strata] | None = None

    def __getitem__(self, name: str) -> Strata:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def _read(self) -> dict[str, Strata]:
        if self._strata is None:
            self._strata = read_strata(self._tables)
        return self._strata


def read_strata(tables: AuditTables) -> dict[str, Strata]:
    """Sort the scored samples into kinds, in one pass over their texts.

    Parameters
    ----------
    tables
        After ``score``.

    Returns
    -------
    dict of str to Strata
        By name, in the order of the samples. Memory: a few numbers a sample, no texts.
    """
    questions, starts = Codebook(MAX_EXACT), Codebook(MAX_KINDS)
    lengths, sources = Codebook(MAX_KINDS), Codebook(MAX_KINDS)
    keys: list[NDArray[np.uint64]] = []
    tokens: list[NDArray[np.int64]] = []
    columns = ["messages", "images", "source", "num_image_tokens"]
    for batch in tables.scan_samples(columns, _SCORED, _BATCH_SIZE):
        asked = [_first_turn(turns, "user") for turns in batch["messages"].to_pylist()]
        answers = [_first_turn(turns, "assistant") for turns in batch["messages"].to_pylist()]
        questions.add(_plain(text) for text in asked)
        starts.add(question_start(text) for text in asked)
        lengths.add(length_bucket(text) for text in answers)
        sources.add(batch["source"].to_pylist())
        keys.append(_image_keys(images[:1] for images in batch["images"].to_pylist()))
        tokens.append(batch["num_image_tokens"].fill_null(0).to_numpy(zero_copy_only=False))
    sample_keys = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
    token_counts = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int64)
    exact = starts if questions.is_full else questions
    return {
        "question": exact.strata("question", may_explain=True),
        "image_size": _sizes(tables, sample_keys),
        "num_image_tokens": _counts("num_image_tokens", token_counts),
        "answer_length": lengths.strata("answer_length", may_explain=False),
        "source": sources.strata("source", may_explain=False),
        "image_copies": _copies(sample_keys),
    }


class Codebook:
    """Numbers for texts, in order of appearance; none for those beyond a limit.

    Parameters
    ----------
    limit
        Most distinct texts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._code_of: dict[str, int] = {}
        self._parts: list[CodeArray] = []
        self.is_full = False
        """Whether there were more texts than the limit."""

    def add(self, texts: Iterable[str]) -> None:
        """Give texts their numbers."""
        self._parts.append(np.array([self._code(text) for text in texts], dtype=np.int16))

    def strata(self, name: str, *, may_explain: bool) -> Strata:
        """Give all texts' numbers as strata."""
        codes = np.concatenate(self._parts) if self._parts else np.empty(0, dtype=np.int16)
        labels = tuple(text[:_LONGEST_LABEL] for text in self._code_of)
        return Strata(name=name, codes_N=codes, labels=labels, may_explain=may_explain)

    def _code(self, text: str) -> int:
        code = self._code_of.get(text)
        if code is not None:
            return code
        if len(self._code_of) >= self._limit:
            self.is_full = True
            return UNKNOWN
        self._code_of[text] = len(self._code_of)
        return len(self._code_of) - 1


def question_start(text: str) -> str:
    """First two words of a question, without case and punctuation.

    What a question begins with tells its form ("what color", "is there"), whatever it is about.
    """
    words = _WORD.findall(_plain(text))[:2]
    return " ".join(word[:_LONGEST_WORD] for word in words)


def length_bucket(text: str) -> str:
    """Words of an answer, within a factor of 2.

    Examples
    --------
    >>> length_bucket("yes"), length_bucket("a red cross on sand")
    ('1 word', '4 to 7 words')
    """
    count = len(text.split())
    if count < 2:
        return "1 word" if count else "no word"
    low = 1 << (count.bit_length() - 1)
    return f"{low} to {2 * low - 1} words"


def _plain(text: str) -> str:
    return " ".join(text.replace(schema.IMAGE_PLACEHOLDER, " ").lower().split())


def _first_turn(turns: list[dict[str, str]], role: str) -> str:
    return next((turn["content"] for turn in turns if turn["role"] == role), "")


def _image_keys(digests: Iterable[list[str]]) -> NDArray[np.uint64]:
    """First 64 bits of each sample's first digest; 0 for a sample without image."""
    return np.array([int(found[0][:16], 16) if found else 0 for found in digests], dtype=np.uint64)


def _sizes(tables: AuditTables, sample_keys: NDArray[np.uint64]) -> Strata:
    """Width and height of each sample's first image, or both within a factor of 1.4."""
    keys, sizes = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int64)]
    for batch in tables.scan_images(["sha256", "width", "height"], _BATCH_SIZE):
        keys.append(_image_keys([digest] for digest in batch["sha256"].to_pylist()))
        sides = [batch[name].to_numpy(zero_copy_only=False) for name in ("width", "height")]
        sizes.append(np.stack(sides, axis=1).astype(np.int64))
    order = np.argsort(np.concatenate(keys))
    image_keys, image_sizes = np.concatenate(keys)[order], np.concatenate(sizes)[order]
    found, codes = np.unique(image_sizes, axis=0, return_inverse=True)
    labels = [f"{width} x {height}" for width, height in found.tolist()]
    if len(found) > MAX_EXACT:
        found, codes = np.unique(_half_octaves(image_sizes), axis=0, return_inverse=True)
        labels = [f"about {2 ** (w / 2):.0f} x {2 ** (h / 2):.0f}" for w, h in found.tolist()]
    sample_codes = np.full(sample_keys.size, UNKNOWN, dtype=np.int16)
    if image_keys.size:
        places = np.minimum(np.searchsorted(image_keys, sample_keys), image_keys.size - 1)
        is_known = image_keys[places] == sample_keys
        sample_codes[is_known] = codes.ravel()[places[is_known]]
    return Strata(name="image_size", codes_N=sample_codes, labels=tuple(labels), may_explain=True)


def _counts(name: str, counts: NDArray[np.int64]) -> Strata:
    """Numbers as they are, or within a factor of 1.4 where there are many."""
    values, codes = np.unique(counts, return_inverse=True)
    labels = [str(value) for value in values.tolist()]
    if values.size > MAX_EXACT:
        values, codes = np.unique(_half_octaves(counts), return_inverse=True)
        labels = [f"about {2 ** (value / 2):.0f}" for value in values.tolist()]
    return Strata(name=name, codes_N=codes.astype(np.int16), labels=tuple(labels), may_explain=True)


def _copies(sample_keys: NDArray[np.uint64]) -> Strata:
    """How many samples show the same first image."""
    _, inverse, copies = np.unique(sample_keys, return_inverse=True, return_counts=True)
    codes = np.searchsorted(_COPY_BOUNDS, copies[inverse], side="right")
    return Strata(
        name="image_copies",
        codes_N=np.where(sample_keys == 0, UNKNOWN, codes).astype(np.int16),
        labels=("1 sample", "2 to 9 samples", "10 to 99 samples", "100 samples or more"),
        may_explain=False,
    )


def _half_octaves(values: NDArray[np.integer]) -> NDArray[np.int64]:
    octaves = np.log2(np.maximum(values, 1).astype(np.float64))
    return np.asarray(np.round(2 * octaves), dtype=np.int64)
