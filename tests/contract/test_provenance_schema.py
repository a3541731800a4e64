"""The schemas in ``schemas/`` are those of the code, and records are held to them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.scored import make_scored_source_audit

from bye_audit.contracts import provenance_schema, write_schemas
from bye_audit.filter import filter_samples

SCHEMAS_DIR = Path(__file__).parents[2] / "schemas"


def test_stored_schemas_are_what_the_code_writes(tmp_path: Path) -> None:
    for path in write_schemas(tmp_path):
        stored = (SCHEMAS_DIR / path.name).read_text(encoding="utf-8")
        assert stored == path.read_text(encoding="utf-8"), "run `make schemas`"


def test_the_schema_is_one_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(provenance_schema())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("provenance")
    result = filter_samples(make_scored_source_audit(folder), folder / "out", detector="bye")
    loaded: dict[str, Any] = json.loads(result.provenance_path.read_text(encoding="utf-8"))
    return loaded


def test_a_real_record_is_valid(record: dict[str, Any]) -> None:
    jsonschema.validate(record, provenance_schema())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("decision",), "clean"),
        (("counts", "kept"), -1),
        (("inputs", 0, "sha256"), "unknown"),
        (("detector", "mixture", "weight_low"), 1.5),
        (("files", 0, "path"), None),
        (("surprise",), True),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_wrong_record_is_refused(
    record: dict[str, Any], place: tuple[str | int, ...], value: object
) -> None:
    wrong = copy.deepcopy(record)
    inner: Any = wrong
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, provenance_schema())
