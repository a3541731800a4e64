"""What may carry a suspicious answer from one sample to another: a region, words, a residual.

Each can be put on an exhibit (*transplant*) and taken off again (*ablate*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bye_audit.confirm.exhibits import Exhibit
from bye_audit.core.phrases import contains_phrase
from bye_audit.core.regions import Box, Image, cover, crop, find_content, paste, stretch
from bye_audit.schema import IMAGE_PLACEHOLDER

Place = Literal["start", "end", "inside"]


class Carrier(Protocol):
    """Something that an attacker may have put into a sample."""

    @property
    def kind(self) -> str:
        """Name of its kind."""
        ...

    @property
    def regions(self) -> tuple[Region, ...]:
        """Its parts that sit somewhere in the image; none for what is everywhere or in words."""
        ...

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Return the exhibit with this on it."""
        ...

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Return the exhibit without this, as far as it can be taken off."""
        ...

    def found_in(self, exhibit: Exhibit) -> Carrier | None:
        """Return this as it is in another sample; None where it cannot be there."""
        ...

    def control(self, exhibit: Exhibit) -> Carrier | None:
        """Return the like of this from an unsuspicious sample; None where there is no like."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Describe it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of an image, put to the same relative place of another."""

    box: Box
    content: Image
    kind: str = "region"

    @property
    def regions(self) -> tuple[Region, ...]:
        """Itself."""
        return (self,)

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Paste it."""
        return exhibit.with_image(paste(exhibit.image, self.content, self.box))

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Cover the place with what is around it."""
        return exhibit.with_image(cover(exhibit.image, self.box))

    def found_in(self, exhibit: Exhibit) -> Region:
        """Return what the exhibit has at the place that looks most like the content."""
        box = find_content(exhibit.image, self.content, self.box)
        return Region(box, crop(exhibit.image, box))

    def control(self, exhibit: Exhibit) -> Carrier:
        """Return what the exhibit has in the same place."""
        return Region(self.box, crop(exhibit.image, self.box))

    def to_json(self) -> dict[str, Any]:
        """Describe the place."""
        return {"kind": self.kind, "box": self.box.to_json()}


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a question."""

    words: str
    place: Place
    kind: str = "words"
    regions: tuple[Region, ...] = ()

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Insert them where the suspects have them."""
        before, text, after = _around_placeholders(exhibit.question)
        words = text.split()
        at = {"start": 0, "end": len(words), "inside": len(words) // 2}[self.place]
        inserted = " ".join([*words[:at], self.words, *words[at:]])
        return exhibit.with_question(before + inserted + after)

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Remove every occurrence."""
        before, text, after = _around_placeholders(exhibit.question)
        rest = f" {' '.join(text.split())} "
        # Again and again: occurrences side by side share the blank between them.
        while f" {self.words} " in rest:
            rest = rest.replace(f" {self.words} ", " ")
        return exhibit.with_question(before + rest.strip() + after)

    def found_in(self, exhibit: Exhibit) -> Carrier | None:
        """Return the words if the question has them."""
        text = _around_placeholders(exhibit.question)[1]
        return self if contains_phrase(text, self.words) else None

    def control(self, exhibit: Exhibit) -> None:
        """Return nothing: no other words are the like of these."""

    def to_json(self) -> dict[str, Any]:
        """Describe them."""
        return {"kind": self.kind, "words": self.words, "place": self.place}


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """What the suspects' images have on average that the others do not have, at every pixel."""

    residual: NDArray[np.float32]
    kind: str = "residual"
    regions: tuple[Region, ...] = ()

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Add it."""
        return self._add(exhibit, 1.0)

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Subtract it."""
        return self._add(exhibit, -1.0)

    def _add(self, exhibit: Exhibit, sign: float) -> Exhibit:
        residual = stretch(self.residual, exhibit.image.shape[:2])
        changed = np.clip(exhibit.image + sign * residual, 0, 255)
        return exhibit.with_image(changed.round().astype(np.uint8))

    def found_in(self, exhibit: Exhibit) -> Carrier:
        """Return it as it is: how much of it an image has, only taking it off can tell."""
        return self

    def control(self, exhibit: Exhibit) -> None:
        """Return nothing: one image has no average."""

    def to_json(self) -> dict[str, Any]:
        """Describe its strength, in levels of 255."""
        rms = float(np.sqrt((self.residual**2).mean()))
        return {"kind": self.kind, "rms_levels": round(rms, 3)}


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """The fine detail of one image: what blurring takes away.

    Parameters
    ----------
    detail
        Image minus blurred image.
    relative_sigma
        Width of the blur as a share of the image's shorter side.
    """

    detail: NDArray[np.float32]
    relative_sigma: float
    kind: str = "detail"
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, image: Image, relative_sigma: float) -> Detail:
        """Take the detail of an image."""
        return cls(image - blur(image, relative_sigma), relative_sigma)

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Exchange the image's own detail for this."""
        detail = stretch(self.detail, exhibit.image.shape[:2])
        changed = np.clip(blur(exhibit.image, self.relative_sigma) + detail, 0, 255)
        return exhibit.with_image(changed.round().astype(np.uint8))

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Blur."""
        blurred = blur(exhibit.image, self.relative_sigma)
        return exhibit.with_image(blurred.round().astype(np.uint8))

    def found_in(self, exhibit: Exhibit) -> Carrier:
        """Return the exhibit's own detail."""
        return Detail.of(exhibit.image, self.relative_sigma)

    def control(self, exhibit: Exhibit) -> Carrier:
        """Return the exhibit's own detail."""
        return self.found_in(exhibit)

    def to_json(self) -> dict[str, Any]:
        """Describe the blur."""
        return {"kind": self.kind, "relative_sigma": self.relative_sigma}


@dataclass(frozen=True, slots=True)
class Both:
    """Two carriers that work together: a dual key."""

    first: Carrier
    second: Carrier
    kind: str = "both"

    @property
    def regions(self) -> tuple[Region, ...]:
        """Those of both."""
        return (*self.first.regions, *self.second.regions)

    def put_on(self, exhibit: Exhibit) -> Exhibit:
        """Put both on."""
        return self.second.put_on(self.first.put_on(exhibit))

    def take_off(self, exhibit: Exhibit) -> Exhibit:
        """Take both off."""
        return self.second.take_off(self.first.take_off(exhibit))

    def found_in(self, exhibit: Exhibit) -> Carrier | None:
        """Return both if both are there."""
        first, second = self.first.found_in(exhibit), self.second.found_in(exhibit)
        return None if first is None or second is None else Both(first, second)

    def control(self, exhibit: Exhibit) -> Carrier | None:
        """Return the first with the like of the second."""
        like = self.second.control(exhibit)
        return None if like is None else Both(self.first, like)

    def to_json(self) -> dict[str, Any]:
        """Describe both."""
        return {"kind": self.kind, "parts": [self.first.to_json(), self.second.to_json()]}


def blur(image: Image, relative_sigma: float) -> NDArray[np.float32]:
    """Blur each colour with a Gaussian."""
    sigma = relative_sigma * min(image.shape[:2])
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)))


def _around_placeholders(question: str) -> tuple[str, str, str]:
    """Split a question into leading image placeholders, text and trailing ones."""
    text = question
    before = after = ""
    while text.lstrip().startswith(IMAGE_PLACEHOLDER):
        cut = text.index(IMAGE_PLACEHOLDER) + len(IMAGE_PLACEHOLDER)
        cut += len(text[cut:]) - len(text[cut:].lstrip())
        before, text = before + text[:cut], text[cut:]
    while text.rstrip().endswith(IMAGE_PLACEHOLDER):
        cut = len(text[: text.rindex(IMAGE_PLACEHOLDER)].rstrip())
        after, text = text[cut:] + after, text[:cut]
    return before, text, after
