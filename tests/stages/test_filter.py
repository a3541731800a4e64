"""filter: verdicts that add up, files that hold what was decided, a record that can be checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.audits import make_scored_audit, store_heads
from support.heads import make_masses, watch_trigger
from support.scored import (
    ADAPTER_DIGEST,
    BROKEN_ID,
    NUM_POISONED,
    NUM_SAMPLES,
    TEXT_ONLY_ID,
    collapsed_entropy,
    make_ingested_audit,
    make_scored_source_audit,
    store_scores,
)

from bye_audit.config import DetectConfig
from bye_audit.errors import (
    ConfigError,
    InterruptedStageError,
    StageNotRunError,
    TooFewSamplesError,
)
from bye_audit.filter import FilterResult, filter_samples
from bye_audit.ingest import ingest_samples
from bye_audit.progress import SilentProgress
from bye_audit.store.tables import AuditTables

VERDICTS = ["sample_id", "verdict", "reason", "suspicion", "detector_score", "filter_run"]
POISONED_IDS = {f"train.json:{row}" for row in range(NUM_POISONED)}


def verdicts_by_id(tables: AuditTables) -> dict[str, dict[str, object]]:
    return {row["sample_id"]: row for row in tables.read_samples(VERDICTS).to_pylist()}


def read_provenance(result: FilterResult) -> dict[str, object]:
    provenance: dict[str, object] = json.loads(result.provenance_path.read_text(encoding="utf-8"))
    return provenance


@pytest.mark.parametrize(
    ("detector", "reason"),
    [("bye", "low_attention_entropy"), ("plausibility", "implausible_answer")],
)
def test_poison_is_removed_with_its_reason(tmp_path: Path, detector: str, reason: str) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(tables, tmp_path / "out", detector=detector)
    assert result.decision == "poison_suspected"
    assert (result.num_samples, result.num_kept) == (NUM_SAMPLES + 1, NUM_SAMPLES - NUM_POISONED)
    assert (result.num_removed, result.num_not_scored, result.num_withheld) == (NUM_POISONED, 1, 0)
    rows = verdicts_by_id(tables)
    removed = {name for name, row in rows.items() if row["verdict"] == "remove"}
    assert removed == POISONED_IDS
    assert {rows[name]["reason"] for name in removed} == {reason}
    assert {row["filter_run"] for row in rows.values()} == {result.run_id}


def test_heads_judge_from_what_score_stored(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit", num_samples=300)
    is_first = np.arange(300) < 30
    values = make_masses(300)
    watch_trigger(values, is_first)
    store_heads(tables, values)
    result = filter_samples(tables, tmp_path / "out", detector="tcap")
    assert result.decision == "poison_suspected"
    removed = {name for name, row in verdicts_by_id(tables).items() if row["verdict"] == "remove"}
    assert removed == {f"made-up.json:{row}" for row in range(30)}
    assert {row["reason"] for row in verdicts_by_id(tables).values()} == {
        "unusual_attention_of_heads",
        "not_suspicious",
    }
    provenance: dict[str, Any] = read_provenance(result)
    found = provenance["detector"]
    assert found["config"]["tcap"]["min_heads"] == 3
    assert found["sensitive_layers"] == []
    assert {head["layer"] for head in found["statistics"]["heads"]} == {2, 3}
    # All questions are one, and the made-up target is the longer answer.
    assert found["statistics"]["confounders"]["question"]["cramers_v"] == 0
    assert found["statistics"]["second_witness"] == "plausibility"


def test_heads_that_were_not_stored_name_the_stage(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit")
    with pytest.raises(StageNotRunError, match="statistics of every head") as caught:
        filter_samples(tables, tmp_path / "out", detector="tcap")
    assert "bye-audit score" in caught.value.hint


def test_the_split_holds_what_was_decided(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    out = tmp_path / "out"
    cleaned = json.loads((out / "cleaned" / "train.json").read_text(encoding="utf-8"))
    original = json.loads((tmp_path / "source" / "train.json").read_text(encoding="utf-8"))
    assert cleaned == original[NUM_POISONED : NUM_SAMPLES + 1], "the text-only record stays"
    removed = pq.read_table(out / "removed.parquet")
    assert set(removed["sample_id"].to_pylist()) == POISONED_IDS
    assert {"suspicion", "reason", "detector_score", "entropy_02"} <= set(removed.column_names)
    for file in result.files:
        content = (out / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    again = AuditTables.create(tmp_path / "again")
    summary = ingest_samples(again, [out / "cleaned" / "train.json"])
    assert (summary.num_samples, summary.num_quarantined) == (NUM_SAMPLES - NUM_POISONED + 1, 0)


def test_the_record_says_what_went_in_and_what_judged_it(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    record = read_provenance(result)
    source = (tmp_path / "source" / "train.json").read_bytes()
    assert record["inputs"][0]["sha256"] == hashlib.sha256(source).hexdigest()  # type: ignore[index]
    assert record["quarantine"] == {"image_missing": 1}
    assert record["lance"]["content_digest"] == tables.content_digest()  # type: ignore[index]
    assert record["provisional_model"]["adapter_digest"] == ADAPTER_DIGEST  # type: ignore[index]
    assert record["finetune"]["learning_rate"] == 2e-4  # type: ignore[index]
    assert record["detector"]["sensitive_layers"] == [2]  # type: ignore[index]
    run = tables.latest_run("filter")
    assert run is not None
    assert run.record["provenance"] == record
    assert str(tmp_path) not in json.dumps(record), "no path of this machine"


def test_counts_of_the_record_add_up(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    counts: dict[str, int] = read_provenance(result)["counts"]  # type: ignore[assignment]
    assert counts["kept"] + counts["removed"] + counts["not_scored"] == counts["samples"]
    rows = Counter(row["verdict"] for row in verdicts_by_id(tables).values())
    assert rows == {"keep": counts["kept"], "remove": counts["removed"], "not_scored": 1}
    num_rows = {file["path"]: file["num_rows"] for file in result.files}
    assert num_rows["cleaned/train.json"] + num_rows["removed.parquet"] == counts["samples"]


def test_not_scored_is_never_called_clean(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    store_scores(tables, collapsed_entropy(), broken_ids=[BROKEN_ID])
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    rows = verdicts_by_id(tables)
    for name, reason in ((TEXT_ONLY_ID, "not_scorable"), (BROKEN_ID, "score_error")):
        assert (rows[name]["verdict"], rows[name]["reason"]) == ("not_scored", reason)
        assert rows[name]["suspicion"] is None
    assert (result.num_not_scored, result.num_withheld) == (2, 1)
    removed = pq.read_table(tmp_path / "out" / "removed.parquet", columns=["sample_id", "verdict"])
    assert {"sample_id": BROKEN_ID, "verdict": "not_scored"} in removed.to_pylist()


def test_an_image_that_no_score_looked_at_is_withheld(tmp_path: Path) -> None:
    """Or a video beside it would be all that poison needs to get by."""
    tables = make_ingested_audit(tmp_path)
    store_scores(tables, collapsed_entropy())
    unseen = {"train.json:3": "not_scorable", TEXT_ONLY_ID: "not_scorable"}
    tables.update_samples(
        pa.table({"sample_id": list(unseen), "score_status": list(unseen.values())})
    )
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    rows = verdicts_by_id(tables)
    assert rows["train.json:3"]["reason"] == "unseen_media"
    assert rows[TEXT_ONLY_ID]["reason"] == "not_scorable"
    assert (result.num_not_scored, result.num_withheld) == (2, 1)
    cleaned = json.loads((tmp_path / "out" / "cleaned" / "train.json").read_text())
    assert 3 not in [record["id"] for record in cleaned]


def test_a_sample_without_the_sensitive_entropy_is_withheld(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    entropy_NL = collapsed_entropy()
    entropy_NL[9, 2] = np.nan
    store_scores(tables, entropy_NL)
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    assert result.num_withheld == 1
    assert verdicts_by_id(tables)["train.json:9"]["verdict"] == "not_scored"


def test_clean_data_keeps_everything_and_says_so(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    store_scores(tables, collapsed_entropy(num_poisoned=0))
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    assert result.decision == "no_evidence"
    assert (result.num_kept, result.num_removed) == (NUM_SAMPLES, 0)
    row = verdicts_by_id(tables)["train.json:0"]
    assert (row["suspicion"], row["detector_score"], row["reason"]) == (
        None,
        None,
        "not_suspicious",
    )
    assert pq.read_table(tmp_path / "out" / "removed.parquet").num_rows == 0


def test_constant_entropies_keep_everything(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    store_scores(tables, np.full((NUM_SAMPLES, 4), 3.3))
    assert filter_samples(tables, tmp_path / "out", detector="bye").decision == "no_evidence"


def test_an_inconclusive_picture_removes_nothing_and_marks_whom_it_spared(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    store_scores(tables, collapsed_entropy(num_poisoned=30))
    result = filter_samples(tables, tmp_path / "out", detector="bye")
    assert result.decision == "inconclusive"
    assert result.num_removed == 0
    reasons = Counter(row["reason"] for row in verdicts_by_id(tables).values())
    assert reasons["dataset_decision_removes_nothing"] == 30
    assert "nothing is removed" in result.explanation


def test_filtering_again_gives_the_same_verdicts_and_split(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    first = filter_samples(tables, tmp_path / "out", detector="bye")
    before = verdicts_by_id(tables)
    second = filter_samples(tables, tmp_path / "out", detector="bye", config=DetectConfig())
    for name, row in verdicts_by_id(tables).items():
        assert {**row, "filter_run": ""} == {**before[name], "filter_run": ""}
    digests = [
        {file["path"]: file["sha256"] for file in result.files if "removed" not in file["path"]}
        for result in (first, second)
    ]
    assert digests[0] == digests[1]


def test_an_unknown_detector_lists_those_there_are(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    with pytest.raises(ConfigError, match="'magic'") as caught:
        filter_samples(tables, tmp_path / "out", detector="magic")
    assert caught.value.hint == (
        "Choose one of: bye, consensus, none, plausibility, random-drop, tcap, zip."
    )


@pytest.mark.parametrize(
    "options",
    [
        {"layer_rule": "reference-code"},
        {"layers": "all"},
        {"clustering": "kmeans"},
        {"clustering": "threshold", "entropy_threshold": "50%", "layers": "all", "guards": False},
        {"guards": False},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_every_variant_is_one_setting_and_on_record(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(
        tables, tmp_path / "out", detector="bye", config=DetectConfig(**options)
    )
    detector = read_provenance(result)["detector"]
    assert isinstance(detector, dict)
    assert detector["config"].items() >= options.items()
    assert result.num_kept + result.num_removed + result.num_not_scored == NUM_SAMPLES + 1
    assert result.num_removed == (0 if "entropy_threshold" in options else NUM_POISONED)
    assert detector["averaged_layers"] == ([0, 1, 2, 3] if "layers" in options else [2])


def test_eq_5_taken_literally_reads_what_score_stored(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    flat_NL = np.random.default_rng(0).normal(3.4, 0.1, (NUM_SAMPLES, 4))
    mass_NL = np.full((NUM_SAMPLES, 4), 0.7)
    mass_NL[:NUM_POISONED, 1] = 0.1
    store_scores(tables, flat_NL, mass_NL=mass_NL)
    assert filter_samples(tables, tmp_path / "out", detector="bye").num_removed == 0
    literal = filter_samples(
        tables, tmp_path / "out", detector="bye", config=DetectConfig(entropy="literal")
    )
    assert literal.sensitive_layers == (1,)
    assert literal.num_removed == NUM_POISONED


def test_eq_5_taken_literally_without_masses_says_what_to_do(tmp_path: Path) -> None:
    tables = make_scored_source_audit(tmp_path)
    with pytest.raises(StageNotRunError, match="was not stored") as caught:
        filter_samples(
            tables, tmp_path / "out", detector="bye", config=DetectConfig(entropy="literal")
        )
    assert "--restart" in caught.value.hint


@pytest.mark.parametrize(("detector", "num_removed"), [("none", 0), ("random-drop", 8)])
def test_baselines_remove_what_they_say(tmp_path: Path, detector: str, num_removed: int) -> None:
    tables = make_scored_source_audit(tmp_path)
    result = filter_samples(tables, tmp_path / "out", detector=detector)
    assert (result.num_removed, result.num_not_scored) == (num_removed, 1)
    assert result.decision == "no_evidence"
    reasons = Counter(row["reason"] for row in verdicts_by_id(tables).values())
    assert reasons["dropped_at_random"] == num_removed


def test_missing_scores_and_missing_likelihoods_name_the_stage(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    with pytest.raises(StageNotRunError) as caught:
        filter_samples(tables, tmp_path / "out", detector="bye")
    assert "bye-audit score" in caught.value.hint
    store_scores(tables, collapsed_entropy())
    with pytest.raises(StageNotRunError, match="log-likelihoods") as caught:
        filter_samples(tables, tmp_path / "out", detector="plausibility")
    assert "plausibility" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_too_few_scored_samples_leave_no_files(tmp_path: Path) -> None:
    tables = make_ingested_audit(tmp_path)
    broken = [f"train.json:{row}" for row in range(3, NUM_SAMPLES)]
    store_scores(tables, collapsed_entropy(), broken_ids=broken)
    with pytest.raises(TooFewSamplesError) as caught:
        filter_samples(tables, tmp_path / "out", detector="bye")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


class _StopAt(SilentProgress):
    """Stands for the user's Ctrl-C at the start of a step."""

    def __init__(self, description: str) -> None:
        self._description = description

    def task(self, description: str, total: int | None, unit: str = "samples"):  # type: ignore[no-untyped-def]
        if description.startswith(self._description):
            raise KeyboardInterrupt
        return super().task(description, total, unit)


@pytest.mark.parametrize("step", ["Detecting", "Writing verdicts", "write the split"])
def test_a_stopped_filter_says_what_to_do_and_can_be_repeated(tmp_path: Path, step: str) -> None:
    tables = make_scored_source_audit(tmp_path)
    with pytest.raises(InterruptedStageError) as caught:
        filter_samples(tables, tmp_path / "out", detector="bye", progress=_StopAt(step))
    assert "same command again" in caught.value.hint
    assert not (tmp_path / "out" / "provenance.json").exists()
    assert filter_samples(tables, tmp_path / "out", detector="bye").num_removed == NUM_POISONED
