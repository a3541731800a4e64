"""Kinds of samples read from the tables, and what becomes of texts too many to keep apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.audits import make_scored_audit
from support.scored import make_scored_source_audit

from bye_audit import schema
from bye_audit.core.confounders import UNKNOWN, Strata
from bye_audit.store.evidence import read_evidence
from bye_audit.store.strata import Codebook, StoredStrata, length_bucket, question_start
from bye_audit.store.tables import AuditTables


def labels_of(strata: Strata) -> list[str]:
    return [strata.labels[code] if code != UNKNOWN else "" for code in strata.codes_N.tolist()]


def make_audit(folder: Path, rows: list[dict[str, object]]) -> AuditTables:
    """Store samples with these questions, answers, sources, images and token counts."""
    tables = AuditTables.create(folder)
    sizes = {image: size for row in rows for image, size in row["images"].items()}  # type: ignore[attr-defined]
    images = {
        "sha256": list(sizes),
        "image": [b"x"] * len(sizes),
        "format": ["PNG"] * len(sizes),
        "width": [size[0] for size in sizes.values()],
        "height": [size[1] for size in sizes.values()],
    }
    tables.append_images(pa.table(images, schema=schema.images_schema()))
    names = [f"made-up:{number}" for number in range(len(rows))]
    samples = {
        "sample_id": names,
        "source": [row["source"] for row in rows],
        "source_row": list(range(len(rows))),
        "source_id": names,
        "split": ["train"] * len(rows),
        "messages": [
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"<image>\n{row['question']}"},
                {"role": "assistant", "content": row["answer"]},
            ]
            for row in rows
        ],
        "images": [list(row["images"]) for row in rows],  # type: ignore[call-overload]
        "unscorable": [None] * len(rows),
        "raw": [b"{}"] * len(rows),
    }
    tables.append_samples(pa.table(samples, schema=schema.samples_schema()))
    tables.add_sample_columns(schema.score_fields(1, {}))
    status = [schema.ScoreStatus.OK.value] * len(rows)
    scores = {
        "sample_id": names,
        "score_status": status,
        "num_image_tokens": pa.array([row["tokens"] for row in rows], pa.int32()),
    }
    tables.update_samples(pa.table(scores))
    return tables


def test_every_kind_is_read_by_column(tmp_path: Path) -> None:
    first, second = "aa" * 32, "bb" * 32
    row = {"question": "What color?", "source": "a.json", "tokens": 81}
    tables = make_audit(
        tmp_path / "audit",
        [
            {**row, "answer": "red", "images": {first: (64, 48)}},
            {**row, "answer": "a dark red", "images": {first: (64, 48), second: (32, 32)}},
            {**row, "answer": "", "images": {second: (32, 32)}, "source": "b.json", "tokens": 9},
            {**row, "answer": "no", "images": {second: (32, 32)}, "question": "Is it  red? "},
        ],
    )
    strata = StoredStrata(tables)
    assert labels_of(strata["question"]) == ["what color?"] * 3 + ["is it red?"]
    assert labels_of(strata["image_size"]) == ["64 x 48"] * 2 + ["32 x 32"] * 2
    assert labels_of(strata["num_image_tokens"]) == ["81", "81", "9", "81"]
    assert labels_of(strata["answer_length"]) == ["1 word", "2 to 3 words", "no word", "1 word"]
    assert labels_of(strata["source"]) == ["a.json", "a.json", "b.json", "a.json"]
    assert labels_of(strata["image_copies"]) == ["2 to 9 samples"] * 4
    assert {name for name, item in strata.items() if item.may_explain} == {
        "question",
        "image_size",
        "num_image_tokens",
    }


def test_many_questions_are_told_apart_by_how_they_begin(tmp_path: Path) -> None:
    image = {"cc" * 32: (16, 16)}
    rows = [
        {
            "question": f"{'What color' if number % 2 else 'Is there'} no. {number}?",
            "answer": "x",
            "source": "a",
            "images": image,
            "tokens": 10 + number,
        }
        for number in range(100)
    ]
    strata = StoredStrata(make_audit(tmp_path / "audit", rows))
    assert set(strata["question"].labels) == {"what color", "is there"}
    assert strata["question"].codes_N.tolist() == [0, 1] * 50
    tokens = labels_of(strata["num_image_tokens"])
    assert tokens[0] == "about 11"
    assert len(set(tokens)) < 10
    assert set(labels_of(strata["image_copies"])) == {"100 samples or more"}


def test_only_scored_samples_have_strata_in_the_order_of_the_evidence(tmp_path: Path) -> None:
    scored = read_evidence(make_scored_source_audit(tmp_path))
    assert len(scored.sample_id) == 40
    for name in scored.evidence.strata:
        assert scored.evidence.strata[name].codes_N.shape == (40,)
    assert not (scored.evidence.strata["image_size"].codes_N == UNKNOWN).any()


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit")
    strata = StoredStrata(tables)
    assert len(strata) == len(list(strata))
    assert strata._strata is None
    assert strata["source"] is strata["source"]


def test_texts_beyond_the_limit_are_of_no_kind() -> None:
    book = Codebook(2)
    book.add(["a", "b", "a", "c"])
    book.add(["b", "d"])
    strata = book.strata("letter", may_explain=False)
    assert book.is_full
    np.testing.assert_array_equal(strata.codes_N, [0, 1, 0, UNKNOWN, 1, UNKNOWN])
    assert strata.labels == ("a", "b")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("<image>\nWhat COLOR is it?", "what color"),
        ("Why?!", "why"),
        ("", ""),
        ("Supercalifragilistic words", "supercalifra words"),
    ],
)
def test_a_question_begins_with_its_first_two_words(text: str, start: str) -> None:
    assert question_start(text) == start


def test_lengths_are_kept_within_a_factor_of_two() -> None:
    found = [length_bucket(" ".join(["word"] * count)) for count in (0, 1, 2, 3, 4, 7, 8, 1000)]
    assert found[:2] == ["no word", "1 word"]
    assert found[2] == found[3] == "2 to 3 words"
    assert found[4] == found[5] == "4 to 7 words"
    assert found[7] == "512 to 1023 words"
