from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from conformance.measure import Measurement
from conformance.survey import BOUND, NO_ANSWERS, Surveyed, architectures, examine
from conformance.table import as_page

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
# Rotations are computed in float32 whatever the model's precision: 150 positions of padding before
# a prompt move a head's entropy by this much.
# inkling2 stays below 1e-5 on some processors and reaches 1.1e-5 on others, which multiply matrices
# in another order.
BOUNDS = {"deepseek_ocr2": 2e-5, "inkling2": 2e-5}
REFUSED = {*NO_ANSWERS, "blip", "git"}
SINGLE_BOUND = 5e-5
HALF_BOUNDS = {"bfloat16": 0.08, "float16": 0.03}
# Where rounding chooses another expert, or another code for a patch, no bound holds.
CHOOSES = {"aria", "emu3"}


@pytest.fixture(scope="module", params=[n for n in architectures() if n not in REFUSED])
def surveyed(request: pytest.FixtureRequest) -> Surveyed:
    torch.set_num_threads(1)
    return examine(request.param)


def measurement(surveyed: Surveyed) -> Measurement:
    assert surveyed.measurement is not None, surveyed.refusal
    return surveyed.measurement


def test_statistics_equal_those_of_eager_attention_in_every_case(surveyed: Surveyed) -> None:
    found = measurement(surveyed)
    bound = BOUNDS.get(surveyed.name, BOUND)
    assert max(found.worst_entropy.values()) <= bound, found.worst_entropy
    assert max(found.worst_mass.values()) <= bound, found.worst_mass
    assert max(found.num_image_tokens) >= 4, "the entropy of fewer tokens would prove little"


def test_lower_precision_stays_within_its_bounds(surveyed: Surveyed) -> None:
    found = measurement(surveyed)
    assert max(found.single_entropy.values()) <= SINGLE_BOUND, found.single_entropy
    if surveyed.name not in CHOOSES:
        for name, bound in HALF_BOUNDS.items():
            assert found.half_entropy[name] <= bound, found.half_entropy


def test_the_page_says_of_each_what_is_measured(surveyed: Surveyed) -> None:
    found = measurement(surveyed)
    row = next(line for line in PAGE.read_text().splitlines() if f"| {surveyed.name} |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == found.class_name
    assert cells[2] == ",".join(map(str, found.layers))
    assert cells[4] == ("generic" if found.is_generic else "adapter")
    assert (cells[-1] != "off") == surveyed.reuses


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_read_is_refused_with_a_reason(name: str) -> None:
    surveyed = examine(name)
    assert surveyed.measurement is None
    assert len(surveyed.refusal.split()) > 3


def test_the_page_lists_every_architecture_there_is() -> None:
    listed = set(re.findall(r"^(?:\| |\* )([\w.-]+(?:, sparse)?)(?: \||:)", PAGE.read_text(), re.M))
    assert set(architectures()) <= listed


def test_the_page_is_made_from_measurements() -> None:
    page = as_page([examine("llava"), examine("git")])
    assert "1 architectures of 1 classes were measured: 1 (1 classes) are exact" in page
    assert "GitForCausalLM" in page
