"""Where in an image the reason for an answer sits: cover parts of it and ask again."""

from __future__ import annotations

from dataclasses import dataclass

from bye_audit.confirm.exhibits import Exhibit, Interrogator
from bye_audit.core.regions import Box, cover, square_windows

# Shares of the image's shorter side, from coarse to fine; half a window from one to the next.
_SIDES = (1 / 4, 1 / 8, 1 / 16)
_NUM_REFINED = 3


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
    found = _cover_each(exhibit, ask, ask.attended_boxes(exhibit), before.logp)
    parents: list[Box | None] = [None]
    for side in _SIDES:
        boxes = [
            box
            for parent in parents
            for box in square_windows(exhibit.image.shape, side, side / 2, parent)
        ]
        level = _cover_each(exhibit, ask, list(dict.fromkeys(boxes)), before.logp)
        if not level:
            break
        found += level
        parents = [item.box for item in level[:_NUM_REFINED]]
    return sorted(found, key=lambda item: (item.box.area, -item.drop))


def _cover_each(
    exhibit: Exhibit, ask: Interrogator, boxes: list[Box], logp: float
) -> list[CausalBox]:
    """Cover boxes one at a time; give those that matter, the largest drop first."""
    covered = [exhibit.with_image(cover(exhibit.image, box)) for box in boxes]
    replies = ask.replies(covered, [exhibit.answer] * len(covered))
    left = [
        CausalBox(box, logp - reply.logp)
        for box, reply in zip(boxes, replies, strict=True)
        if not reply.is_given
    ]
    return sorted(left, key=lambda item: -item.drop)
