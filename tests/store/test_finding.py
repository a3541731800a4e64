"""What a user names leads to the files that are meant, and to nothing outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.sources import llava_record, write_chat_source, write_llava_source

from bye_audit.errors import ConfigError, InputError, SourceFormatError
from bye_audit.store.sources.finding import find_sources

TURNS = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a star"}]


def write_lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_a_file_is_read_for_what_it_is(tmp_path: Path) -> None:
    (one,) = find_sources(write_llava_source(tmp_path / "a", 2))
    assert (one.container.name, one.dialect.name) == ("json", "llava")
    assert one.image_root == tmp_path / "a"
    (two,) = find_sources(write_chat_source(tmp_path / "b", 2), image_root=tmp_path)
    assert (two.container.name, two.dialect.name, two.image_root) == ("jsonl", "openai", tmp_path)


def test_a_name_of_the_format_settles_it(tmp_path: Path) -> None:
    path = write_llava_source(tmp_path / "a", 2)
    assert find_sources(path, "sharegpt")[0].dialect.name == "sharegpt"
    assert find_sources(path, "json")[0].dialect.name == "llava"
    with pytest.raises(SourceFormatError):
        find_sources(path, "parquet")
    with pytest.raises(ConfigError, match="docx") as caught:
        find_sources(path, "docx")
    assert "llava" in caught.value.hint


def test_an_internvl_meta_file_names_annotations_and_their_images(tmp_path: Path) -> None:
    record = {"image": "a.png", "width": 1, "height": 1, "conversations": TURNS}
    first = write_lines(tmp_path / "data" / "one.jsonl", record)
    second = write_lines(tmp_path / "two.jsonl", record)
    (tmp_path / "pictures").mkdir()
    meta = {
        "one": {"root": "pictures", "annotation": "data/one.jsonl", "repeat_time": 2},
        "two": {"annotation": "two.jsonl", "data_augment": False},
        "gone": {"annotation": "gone.jsonl"},
    }
    found = find_sources(write_json(tmp_path / "meta.json", meta))
    assert [each.path for each in found] == [first, second]
    assert [each.image_root for each in found] == [tmp_path / "pictures", tmp_path]
    assert [each.options for each in found] == [{"repeat_time": 2}, {}]
    assert {each.dialect.name for each in found} == {"internvl"}


def test_dataset_info_is_heeded_wherever_it_is_found(tmp_path: Path) -> None:
    record = {"dialog": [{"who": "Q", "says": "?"}, {"who": "A", "says": "a star"}]}
    path = write_json(tmp_path / "odd.json", [record])
    entry = {
        "file_name": "odd.json",
        "formatting": "sharegpt",
        "columns": {"messages": "dialog"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A"},
    }
    listing = {"odd": entry, "far": {"hf_hub_url": "someone/something"}}
    catalog = write_json(tmp_path / "dataset_info.json", listing)
    for given in (catalog, tmp_path, path):
        (found,) = find_sources(given)
        assert (found.path, found.dialect.name) == (path, "llama-factory")
        assert found.dialect.read(record).messages[1]["content"] == "a star"
    write_json(catalog, {"far": listing["far"]})
    with pytest.raises(InputError, match="lists no data file"):
        find_sources(catalog)


@pytest.mark.parametrize("text", ["../secret.jsonl", "/etc/passwd", "a\0b", "x" * 5000])
def test_a_catalog_leads_nowhere_outside(tmp_path: Path, text: str) -> None:
    write_lines(tmp_path / "secret.jsonl", {"conversations": TURNS})
    for key in ("annotation", "file_name"):
        catalog = write_json(tmp_path / "in" / "meta.json", {"a": {key: text}})
        with pytest.raises(InputError, match="lists no data file"):
            find_sources(catalog)


def test_one_record_in_a_file_of_its_own_is_no_catalog(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "one.json", llava_record(1, "a star", None))
    (found,) = find_sources(path)
    assert (found.container.name, found.dialect.name) == ("jsonl", "llava")


def test_patterns_stand_for_paths_in_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        write_lines(tmp_path / f"s-{number:02d}.jsonl", {"conversations": TURNS})
    names = {
        "s-{01..02}.jsonl": ["s-01.jsonl", "s-02.jsonl"],
        "s-{10,01}.jsonl": ["s-10.jsonl", "s-01.jsonl"],
        "s-*.jsonl": ["s-01.jsonl", "s-02.jsonl", "s-10.jsonl"],
        "s-{0?,1[0-9]}.jsonl": ["s-01.jsonl", "s-02.jsonl", "s-10.jsonl"],
    }
    for pattern, wanted in names.items():
        assert [each.path.name for each in find_sources(tmp_path / pattern)] == wanted
    for pattern in ("s-{01..03}.jsonl", "t-*.jsonl", "{s,t}-*.jsonl", "s-{.jsonl"):
        with pytest.raises(InputError):
            find_sources(tmp_path / pattern)
    odd = write_lines(tmp_path / "a{1,2}*.jsonl", {"conversations": TURNS})
    assert [each.path for each in find_sources(odd)] == [odd]


def test_folders_give_their_files_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    paths = [write_lines(folder / f"{n}.jsonl", {"conversations": TURNS}) for n in (2, 1)]
    assert [each.path for each in find_sources(folder)] == sorted(paths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceFormatError, match="holds no"):
        find_sources(tmp_path / "empty")
    with pytest.raises(InputError, match="There is no file"):
        find_sources(tmp_path / "nowhere.json")
    odd = tmp_path / "odd.json"
    odd.write_text("hello")
    with pytest.raises(SourceFormatError, match="no known format"):
        find_sources(odd)
