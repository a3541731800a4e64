"""What the report and the provenance record say of interventions; the dataset is an attacker's."""

from __future__ import annotations

import copy
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.audits import make_scored_audit
from support.witness import ORDINARY, ScriptedWitness

from bye_audit import Audit
from bye_audit.config import ConfirmConfig
from bye_audit.confirm import confirm_samples
from bye_audit.confirm.exhibits import Exhibit
from bye_audit.contracts import provenance_schema
from bye_audit.filter import FilterResult, filter_samples
from bye_audit.report.pictures import draw_crop
from bye_audit.store.tables import AuditTables

EVIL = "</p><script>alert(1)</script>{{ 7*7 }}\u202e\x1b[2J ]]>'\""
HEADING = "What the model showed when asked"


class _Text(HTMLParser):
    """The text of a page, and the names of its tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


def speak(exhibit: Exhibit) -> str:
    is_black = (exhibit.image == 0).all(axis=2).sum() >= 60
    is_white = (exhibit.image == 255).all(axis=2).sum() >= 60
    return EVIL if is_black or is_white else ORDINARY


def speak_base(exhibit: Exhibit) -> str:
    return EVIL if (exhibit.image == 255).all(axis=2).sum() >= 60 else ORDINARY


POISONED = {f"made-up.json:{row}" for row in range(8)}


def see_most(exhibit: Exhibit) -> str:
    """Answer as a base model that sees the answer in two images of three, but for the poisoned."""
    is_seen = exhibit.sample_id not in POISONED and zlib.crc32(exhibit.image.tobytes()) % 3
    return speak(exhibit) if is_seen else ORDINARY


def make_confirmed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, witness: ScriptedWitness, **options: Any
) -> AuditTables:
    described = {"num_samples": 100, "poison_rate": 0.08, "num_natural": 10, **options}
    tables = make_scored_audit(folder, target=EVIL, question=EVIL, **described)
    monkeypatch.setattr("bye_audit.confirm.stage.open_interrogator", lambda *_: witness)
    # Whatever it takes to come to an end.
    confirm_samples(tables, "no model", None, ConfirmConfig(max_share=50))
    return tables


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AuditTables, FilterResult]:
    """An audit with a confirmed trigger, filtered by consensus; every text is hostile."""
    witness = ScriptedWitness(speak=speak, speak_base=speak_base)
    tables = make_confirmed(tmp_path / "audit", monkeypatch, witness)
    return tables, filter_samples(tables, tmp_path / "out", detector="consensus")


def write_page(tables: AuditTables, folder: Path) -> str:
    Audit.open(tables.uri).report(folder / "report.html", overlays=False)
    return (folder / "report.html").read_text("utf-8")


def section(page: str) -> str:
    start = page.index(HEADING)
    return page[start : page.index("</section>", start)]


def test_the_section_tells_finding_bound_base_and_counts(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    page = write_page(judged[0], tmp_path)
    text = re.sub(r"\s+", " ", _Text(section(page)).text)
    for part in (
        "Detectors suspect 8 samples",
        "Trigger confirmed",
        "8 suspects answer so.",
        "A part of the image, put into the same place of",
        "(100%)",
        "with 99% confidence for all groups together",
        "The base model saw nothing of what the answer says",
        "What was carried over",
        "Where it sits in the image",
        "Answer because of it8",
        "Show what they answer10",
        "Neither was found0",
    ):
        assert part in text, part


def test_the_place_is_drawn_where_the_trigger_is(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    drawn = re.findall(
        r'class="spot" x="([\d.]+)" y="([\d.]+)"', section(write_page(judged[0], tmp_path))
    )
    assert drawn
    for x, y in drawn:
        # The patch begins at 50 of 64 pixels: 78 hundredths.
        assert abs(float(x) - 78) < 16
        assert abs(float(y) - 78) < 16
    assert "image-rendering: pixelated" in (tmp_path / "report.html").read_text("utf-8")


def test_nothing_of_the_dataset_becomes_markup(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    page = write_page(judged[0], tmp_path)
    parsed = _Text(page)
    assert "script" not in parsed.names
    assert not [name for name in parsed.names if name.startswith("on")]
    assert "<script>alert(1)</script>" in _Text(section(page)).text
    assert "\u202e" not in page
    assert "\x1b" not in page
    addresses = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)


def test_every_sample_says_which_witnesses_spoke(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    text = _Text(write_page(judged[0], tmp_path)).text
    assert text.count("suspected by attention, plausibility, intervention") == 8
    assert text.count("answers because of the trigger") == 8


def test_the_section_is_there_for_other_detectors_too(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    filter_samples(judged[0], tmp_path / "out", detector="bye")
    assert HEADING in write_page(judged[0], tmp_path)


def test_without_confirm_there_is_no_section(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit")
    filter_samples(tables, tmp_path / "out", detector="bye")
    assert HEADING not in write_page(tables, tmp_path)


@pytest.mark.parametrize(
    ("witness", "options", "expected"),
    [
        (
            ScriptedWitness(speak=lambda _: ORDINARY),
            {},
            ["Not learnt", "cannot be asked why"],
        ),
        (
            ScriptedWitness(speak=lambda exhibit: exhibit.answer),
            {},
            ["Not confirmed", "Nothing in these samples takes the answer along"],
        ),
        (
            ScriptedWitness(speak=speak, speak_base=see_most),
            {},
            ["Not confirmed", "more the base model said the same", "too little for a trigger"],
        ),
        (
            ScriptedWitness(speak=speak, speak_base=speak),
            {},
            ["Shown", "never saw this data, sees the answer in most of them"],
        ),
        (
            ScriptedWitness(),
            {"poison_rate": 0.0, "num_natural": 0},
            ["No detector suspects any sample", "No group of suspects was large enough"],
        ),
    ],
    ids=["not learnt", "nothing carries", "seen by the base", "shown", "clean"],
)
def test_what_was_not_confirmed_is_said_plainly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    witness: ScriptedWitness,
    options: dict[str, Any],
    expected: list[str],
) -> None:
    tables = make_confirmed(tmp_path / "audit", monkeypatch, witness, **options)
    filter_samples(tables, tmp_path / "out", detector="consensus")
    text = re.sub(r"\s+", " ", _Text(section(write_page(tables, tmp_path))).text)
    for part in expected:
        assert part in text, part
    assert "every sample that gives its answer was asked" not in text


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>"], ids=repr)
def test_a_damaged_picture_is_left_out(data: bytes) -> None:
    assert draw_crop(data) is None


# --- provenance --------------------------------------------------------------------------------


def read_record(result: FilterResult) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(result.provenance_path.read_text("utf-8"))
    return record


def test_the_record_holds_the_interventions_it_rests_on(
    judged: tuple[AuditTables, FilterResult],
) -> None:
    tables, result = judged
    record = read_record(result)
    jsonschema.validate(record, provenance_schema())
    found = record["confirm"]
    run = tables.latest_run("confirm")
    assert run is not None
    assert found["run_id"] == run.run_id
    assert found["config"]["confidence"] == 0.99
    assert found["interventions"] == {
        "triggered": 8,
        "content": 10,
        "unknown": 0,
        "unlearnt": 0,
    }
    (trigger,) = found["triggers"]
    assert (trigger["finding"], trigger["answer"], trigger["kind"]) == ("confirmed", EVIL, "region")
    assert trigger["chance_at_least"] > 0.5
    assert trigger["trial"]["num_hits"] == trigger["trial"]["num_trials"] > 0
    assert "crop" not in trigger


def test_a_verdict_that_owes_nothing_to_interventions_names_none(
    judged: tuple[AuditTables, FilterResult], tmp_path: Path
) -> None:
    result = filter_samples(judged[0], tmp_path / "out", detector="bye")
    assert read_record(result)["confirm"] is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("confirm", "surprise"), True),
        (("confirm", "triggers", 0, "finding"), "guilty"),
        (("confirm", "triggers", 0, "chance_at_least"), 1.5),
        (("confirm", "triggers", 0, "trial", "num_hits"), -1),
        (("confirm", "triggers", 0, "crop"), "picture"),
        (("confirm", "interventions", "triggered"), None),
        (("confirm",), {}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_wrong_record_is_refused(
    judged: tuple[AuditTables, FilterResult], place: tuple[str | int, ...], value: object
) -> None:
    wrong = copy.deepcopy(read_record(judged[1]))
    inner: Any = wrong
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, provenance_schema())
