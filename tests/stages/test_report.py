from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.audits import make_scored_audit, store_heads
from support.heads import make_masses, watch_trigger

from bye_audit import Audit
from bye_audit.errors import StageNotRunError, StorageError
from bye_audit.report.page import write_report
from bye_audit.report.pictures import draw_overlay, draw_picture
from bye_audit.report.selection import NUM_CONTRAST, choose_samples
from bye_audit.store.tables import AuditTables

EVIL = "</p><script>alert(1)</script><img src=http://x/y onerror=alert(2)>{{ 7*7 }}\u202e\x1b[2J"


class _Page(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def _write(tables: AuditTables, out: Path, maps: dict[str, np.ndarray] | None = None) -> str:
    run = tables.latest_run("filter")
    assert run is not None
    provenance = run.record["provenance"]
    write_report(tables, provenance, choose_samples(tables), maps or {}, out)
    return out.read_text("utf-8")


@pytest.fixture(scope="module")
def evil_tables(tmp_path_factory: pytest.TempPathFactory) -> AuditTables:
    """A poisoned audit whose every text tries to get out of the page."""
    folder = tmp_path_factory.mktemp("evil")
    tables = make_scored_audit(folder / "audit", question=EVIL, target=EVIL)
    Audit.open(folder / "audit").profile().filter(folder / "out", detector="bye")
    return tables


@pytest.fixture(scope="module")
def evil_page(evil_tables: AuditTables, tmp_path_factory: pytest.TempPathFactory) -> str:
    maps = {name: np.eye(9) for name in choose_samples(evil_tables).sample_ids}
    return _write(evil_tables, tmp_path_factory.mktemp("page") / "report.html", maps)


def test_the_decision_comes_first(evil_page: str) -> None:
    text = _Page(evil_page[evil_page.index("<body>") :]).text.split()
    assert text[:4] == ["bye-audit", "report", "Poison", "suspected"]


def test_no_text_of_a_sample_becomes_markup(evil_page: str) -> None:
    page = _Page(evil_page)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "\u202e" not in evil_page
    assert "\\u202e\\x1b[2J" in page.text


def test_the_page_asks_for_nothing_outside_itself(evil_page: str) -> None:
    page = _Page(evil_page)
    addresses = [v for _, name, v in page.attributes if name in {"src", "href", "xlink:href"}]
    assert addresses
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert "url(http" not in evil_page
    policy = next(value for _, name, value in page.attributes if name == "content")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_ids_are_unique_and_every_reference_is_met(evil_page: str) -> None:
    page = _Page(evil_page)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {
        v[1:] for _, n, v in page.attributes if n in {"href", "xlink:href"} and v[0] == "#"
    }
    references |= set(re.findall(r"url\(#([^)]+)\)", evil_page))
    assert references <= set(ids)


def test_charts_take_the_colours_of_the_page(evil_page: str) -> None:
    charts = "".join(
        re.findall(r'<svg role="img" aria-label="(?:Bimodal|Histogram).*?</svg>', evil_page, re.S)
    )
    assert "var(--alarm)" in charts
    left = set(re.findall(r"#[0-9a-f]{6}\b", charts))
    assert left <= {"#000000", "#ffffff"}


def test_the_page_tells_counts_layers_limits_and_origin(evil_page: str) -> None:
    text = _Page(evil_page).text
    for part in (
        "Sensitive here: 3, 4.",
        "10.0% of the samples",
        "every sample was judged",
        "What this verdict cannot tell",
        "Content digest",
        "None: every record of the sources became a sample.",
    ):
        assert part in text


def test_shared_answers_are_counted(evil_page: str) -> None:
    table = evil_page[evil_page.index("Answers that removed samples share") :]
    numbers = re.findall(r'<td class="figure">([^<]*)</td>', table)[:3]
    assert numbers == ["8", "0", "100.0%"]


def test_all_removed_samples_are_shown_and_some_for_contrast(evil_tables: AuditTables) -> None:
    choice = choose_samples(evil_tables)
    assert choice.suspicious_ids == tuple(f"made-up.json:{row}" for row in range(8))
    assert len(choice.contrast_ids) == NUM_CONTRAST
    assert not set(choice.suspicious_ids) & set(choice.contrast_ids)


def test_overlays_are_drawn_where_there_are_maps(evil_tables: AuditTables, tmp_path: Path) -> None:
    without = _write(evil_tables, tmp_path / "without.html")
    assert 'class="heat"' not in without
    assert "where the provisional model looks" not in without
    some = choose_samples(evil_tables).suspicious_ids[0]
    page = _write(evil_tables, tmp_path / "with.html", {some: np.eye(9)})
    assert page.count('class="heat"') == 1
    assert "where the provisional model looks" in page


def test_a_clean_audit_says_what_that_is_worth(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit", num_samples=200, poison_rate=0.0)
    Audit.open(tmp_path / "audit").profile().filter(tmp_path / "out", detector="bye")
    text = _Page(_write(tables, tmp_path / "report.html")).text
    assert "No evidence of poison" in text
    assert "This is not proof of clean data" in text


def test_an_inconclusive_audit_shows_what_came_nearest(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit", num_samples=200, poison_rate=0.6)
    Audit.open(tmp_path / "audit").profile().filter(tmp_path / "out", detector="bye")
    text = _Page(_write(tables, tmp_path / "report.html")).text
    assert "Inconclusive: nothing was removed" in text
    assert "The most suspicious samples, all kept" in text


def test_a_vote_of_heads_has_its_own_words_and_shows_no_text_unescaped(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit", num_samples=200, question=EVIL, target=EVIL)
    values = make_masses(200)
    watch_trigger(values, np.arange(200) < 20)
    store_heads(tables, values)
    Audit.open(tmp_path / "audit").profile().filter(tmp_path / "out", detector="tcap")
    text = _write(tables, tmp_path / "report.html")
    page = _Page(text)
    assert "attention heads of how far each sample is" in page.text
    assert "Answer_length" not in page.text
    assert "script" not in page.tags


def test_the_second_detector_has_its_own_words(tmp_path: Path) -> None:
    tables = make_scored_audit(tmp_path / "audit", num_samples=200)
    Audit.open(tmp_path / "audit").profile().filter(tmp_path / "out", detector="plausibility")
    text = _Page(_write(tables, tmp_path / "report.html")).text
    assert "How much more likely the fine-tuned model finds each sample's own answer" in text
    assert "Gain in the answer's mean log-likelihood" in html.unescape(text)


def test_a_report_before_filter_names_the_command(tmp_path: Path) -> None:
    make_scored_audit(tmp_path / "audit", num_samples=20)
    with pytest.raises(StageNotRunError) as raised:
        Audit.open(tmp_path / "audit").report(tmp_path / "report.html")
    assert "bye-audit filter" in raised.value.hint


def test_a_place_that_cannot_be_written_is_named(evil_tables: AuditTables, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"report\.html") as raised:
        _write(evil_tables, tmp_path / "file" / "report.html")
    assert "--out" in raised.value.hint


def test_an_earlier_report_is_replaced_whole(evil_tables: AuditTables, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    assert "old" not in _write(evil_tables, out)[:10]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>"], ids=repr)
def test_what_is_no_image_gives_no_picture(data: bytes) -> None:
    assert draw_picture(data) is None


def test_an_overlay_without_attention_is_clear() -> None:
    assert draw_overlay(np.zeros((3, 3))) == draw_overlay(np.full((3, 3), np.nan))


def _svg_parts(page: str) -> Iterator[str]:
    yield from re.findall(r"<svg.*?</svg>", page, re.S)


def test_charts_carry_no_text_of_the_dataset(evil_page: str) -> None:
    assert not any("alert" in part for part in _svg_parts(evil_page))
