"""All architectures of the installed transformers: measured, refused, or without a specimen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from bye_audit.errors import UnsupportedModelError
from conformance import zoo
from conformance.measure import Measurement, measure
from conformance.specimen import ZOO

BOUND = 1e-5
"""Largest error of an entropy (nats) or a mass that counts as exact."""
REUSE_BOUND = 2e-6
"""Largest difference between a question packed behind its image and the same alone."""
# No tiny model can be asked: what they put out is no answer to a question about an image.
NO_ANSWERS = {
    "evolla": "looks at proteins, not images",
    "pi0": "answers with movements of a robot",
    "diffusion_gemma": "writes its whole answer at once, from noise; no query predicts its start",
}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One architecture, and what became of it."""

    name: str
    measurement: Measurement | None = None
    remark: str = ""
    refusal: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether every entropy and every mass is within the bound."""
        found = self.measurement
        return found is not None and max(found.worst_entropy_all, found.worst_mass_all) <= BOUND

    @property
    def reuses(self) -> bool:
        """Whether questions may ride on their image's part of the prompt."""
        found = self.measurement
        return found is not None and found.reuse is not None and found.reuse <= REUSE_BOUND


def architectures() -> list[str]:
    """Names of all image-text-to-text architectures, and of those measured beside them."""
    zoo.load_all()
    return sorted({*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *ZOO})


def survey(names: Sequence[str], report: Callable[[str], object]) -> list[Surveyed]:
    """Measure architectures, all or those named."""
    found = []
    for name in names or architectures():
        report(name)
        found.append(examine(name))
    return found


def examine(name: str) -> Surveyed:
    """Measure one architecture, or say why it cannot be."""
    zoo.load_all()
    if name not in ZOO:
        return Surveyed(name, refusal=NO_ANSWERS.get(name, "no specimen"))
    specimen = ZOO[name]()
    try:
        return Surveyed(name, measure(specimen), specimen.remark)
    except UnsupportedModelError as error:
        return Surveyed(name, refusal=str(error))
