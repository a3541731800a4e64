"""Where in an image the reason for an answer sits: cover parts of it and ask again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.core.regions import Box, cover, square_windows

# Shares of the image's shorter side, from coarse to fine; half a window from one to the next.
_SIDES = (1 / 4, 1 / 8, 1 / 16)
_NUM_REFINED = 3
SHARPENING_STEPS = (1 / 2, 1 / 4)
"""Shares of a window's side that it is moved by, to where it works best."""


@dataclass(frozen=True, slots=True)
class CausalBox:
    """A part of an image without which the answer leaves.

    Parameters
    ----------
    box
        Where it is.
    drop
        What covering it takes from the answer's mean log-likelihood, in nats a token.
    """

    box: Box
    drop: float


def find_causal_boxes(exhibit: Exhibit, ask: Interrogator) -> list[CausalBox]:
    """Find the smallest squares whose covering makes the model leave the sample's own answer.

    Parameters
    ----------
    exhibit
        A sample whose answer is the model's own.
    ask
        The provisional model.

    Returns
    -------
    list of CausalBox
        The smallest first, of a size the largest drop first; empty if no square of a quarter of
        the side makes the answer leave, as with triggers that are everywhere.

    Notes
    -----
    What the model attends to is covered first. A window of each size is then tried all over the
    coarser windows that were found to matter, so that some hundred questions take the place of
    thousands: attention may collapse elsewhere than where the trigger is, or not at all.
    """
    [before] = ask.replies([exhibit], [exhibit.answer])
    if not before.is_given:
        return []

    def drops(covered: Sequence[Exhibit]) -> list[float | None]:
        replies = ask.replies(covered, [exhibit.answer] * len(covered))
        return [None if reply.is_given else before.logp - reply.logp for reply in replies]

    return search_boxes(exhibit, ask.attended_boxes(exhibit), drops)


def search_boxes(
    exhibit: Exhibit,
    attended: list[Box],
    drops: Callable[[Sequence[Exhibit]], list[float | None]],
) -> list[CausalBox]:
    """Cover what is attended to, then windows from coarse to fine inside those that matter."""
    found = _cover_each(exhibit, attended, drops)
    parents: list[Box | None] = [None]
    for side in _SIDES:
        boxes = [
            box
            for parent in parents
            for box in square_windows(exhibit.image.shape, side, side / 2, parent)
        ]
        level = _cover_each(exhibit, list(dict.fromkeys(boxes)), drops)
        if not level:
            break
        found += level
        parents = [item.box for item in level[:_NUM_REFINED]]
    return sorted(found, key=lambda item: (item.box.area, -item.drop))


def _cover_each(
    exhibit: Exhibit,
    boxes: list[Box],
    drops: Callable[[Sequence[Exhibit]], list[float | None]],
) -> list[CausalBox]:
    """Cover boxes one at a time; give those that matter, the largest drop first."""
    covered = [exhibit.with_image(cover(exhibit.image, box)) for box in boxes]
    left = [
        CausalBox(box, drop)
        for box, drop in zip(boxes, drops(covered), strict=True)
        if drop is not None
    ]
    return sorted(left, key=lambda item: -item.drop)
