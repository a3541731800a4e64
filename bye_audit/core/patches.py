"""Which patches of a known trigger tell it from other images, and how alike is alike.

Shapes: T = patches of one image, D = size of a vector, K = patches that a trigger covers in one
image, O = other images that hold it, S = unsuspicious images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_MOST_QUERIES = 16
# A patch is looked for if fewer unsuspicious images than this hold one as near as its own kind is.
_CLEAN_SHARE = 0.05
_FEWEST_KIN = 1 / 4
# Half precision, and the noise of another compression.
_TOLERANCE = 1.05
# Of the way to the strangers, where a trigger is the same to the bit on all samples.
_LEAST_REACH = 0.1


class Embedder(Protocol):
    """Turns an image into vectors of its patches, (T, D)."""

    @property
    def identity(self) -> dict[str, str]:
        """Of the model and settings: vectors of others are not to be compared."""
        ...

    def embed(self, image: PilImage) -> NDArray[np.float16]:
        """Give the vectors of an image's patches in the model's order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One patch of a confirmed trigger.

    Parameters
    ----------
    vector
        (D,): what it looks like.
    reach
        How far away, at most, a patch may be that counts as like it.
    """

    vector: NDArray[np.float32]
    reach: float


def choose_queries(
    covered_KD: Sequence[NDArray[np.float32]], strangers_TD: Sequence[NDArray[np.float32]]
) -> list[Query]:
    """Choose the patches of a trigger that tell it from other images, and how far they reach.

    Parameters
    ----------
    covered_KD
        Of each sample that a trigger was found to sit in: the patches it covers.
    strangers_TD
        Of unsuspicious samples: all patches.

    Returns
    -------
    list of Query
        At most 16. Each reaches as far as patches of the same trigger in other samples lie, but
        nearer than any patch of 19 in 20 strangers.
    """
    found: list[tuple[int, Query]] = []
    for number, own_KD in enumerate(covered_KD):
        others = [other for i, other in enumerate(covered_KD) if i != number and len(other)]
        if not (others and strangers_TD and len(own_KD)):
            continue
        kin_KO = np.stack([cdist(own_KD, other).min(axis=1) for other in others], axis=1)
        stranger_KS = np.stack([cdist(own_KD, other).min(axis=1) for other in strangers_TD], axis=1)
        edge_K = np.quantile(stranger_KS, _CLEAN_SHARE, axis=1)
        for vector_D, kin_O, edge in zip(own_KD, kin_KO, edge_K, strict=True):
            near = kin_O[kin_O * _TOLERANCE < edge]
            if len(near) >= max(1.0, _FEWEST_KIN * len(others)):
                reach = max(float(near.max()) * _TOLERANCE, float(edge) * _LEAST_REACH)
                found.append((len(near), Query(vector_D, reach)))
    found.sort(key=lambda pair: -pair[0])
    chosen: list[Query] = []
    for _, query in found:
        # What one query finds, another close by finds as well.
        is_new = all(np.linalg.norm(query.vector - c.vector) > c.reach / 2 for c in chosen)
        if is_new and len(chosen) < _MOST_QUERIES:
            chosen.append(query)
    return chosen
