"""Which heads set a minority of the samples apart, and where a confounder accounts for it.

Shapes: R = samples kept whole, M = bins.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import TcapConfig
from bye_audit.core.confounders import (
    DEPENDENT_SHARE,
    Association,
    Strata,
    associate_all,
    fit_stratum_scale,
    variance_between,
)
from bye_audit.core.groups import cut_in_two
from bye_audit.core.head_values import HeadScale, HeadValues
from bye_audit.core.histogram import ValueHistogram
from bye_audit.core.voting import HeadVoter, kappa_with

FloatArray = NDArray[np.float64]

# Values within strata are in units of a stratum's spread: beyond this all are outliers alike.
_FARTHEST = 32.0
_NUM_BINS = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundVoters:
    """Heads that set a minority apart.

    Parameters
    ----------
    voters
        The most trusted first: by agreement with the second witness, if there is one, and then by
        separation.
    explained
        Those whose minority is what some strata tell apart, likewise.
    """

    voters: list[HeadVoter]
    explained: list[HeadVoter]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadSearch:
    """All that the search looks at.

    Parameters
    ----------
    values
        Statistics of every head.
    scale
        That they are in.
    strata
        Confounders of the samples kept whole, by name; those that may not explain a split are
        passed over.
    config
        What it takes to be a voter.
    max_share
        Largest share of a minority.
    witness_R
        A group that a second witness found; None without one.
    seed
        Of the mixture fits.
    """

    values: HeadValues
    scale: HeadScale
    strata: Mapping[str, Strata]
    config: TcapConfig
    max_share: float
    witness_R: NDArray[np.bool_] | None = None
    seed: int = 0

    def run(self, on_layer: Callable[[int], None] | None = None) -> FoundVoters:
        """Search every statistic of every head, layer by layer."""
        voters: list[HeadVoter] = []
        explained: list[HeadVoter] = []
        for row, layer in enumerate(self.values.layers):
            for head in range(self.values.histogram.shape[2]):
                for number in range(len(self.values.statistics)):
                    voter, within = self._search(number, row, head)
                    if within is not None:
                        if voter is not None:
                            explained.append(voter)
                        voter = self._search_within(number, row, head, within)
                    if voter is not None:
                        voters.append(voter)
            if on_layer is not None:
                on_layer(layer)
        return FoundVoters(
            voters=sorted(voters, key=self._trust, reverse=True),
            explained=sorted(explained, key=self._trust, reverse=True),
        )

    def votes_of(self, voter: HeadVoter) -> NDArray[np.int8]:
        """Votes of a head on the samples kept whole."""
        return voter.vote(self.compared(voter), threshold=self.config.vote_threshold)

    def compared(self, voter: HeadVoter) -> FloatArray:
        """Give a head's values on the samples kept whole, as its groups know them."""
        codes_R = None if voter.confounder is None else self.strata[voter.confounder].codes_N
        return voter.compare(self._values_of(voter), codes_R)

    def explanation_of(self, is_member_R: NDArray[np.bool_]) -> Association | None:
        """Give the confounder that tells a group from the rest, if one does."""
        found = associate_all(is_member_R, self.strata.values())
        return next((item for item in found if item.explains), None)

    def witness_kappa(self, voter: HeadVoter) -> float:
        """Agreement beyond chance with the second witness; 0 without one."""
        if self.witness_R is None:
            return 0.0
        return float(kappa_with(self.votes_of(voter)[:, None], self.witness_R)[0])

    def agrees(self, voter: HeadVoter) -> bool:
        """Whether the second witness sets the same samples apart."""
        return self.witness_kappa(voter) >= self.config.min_witness_agreement

    def _trust(self, voter: HeadVoter) -> tuple[float, float]:
        kappa = self.witness_kappa(voter)
        return kappa if self.agrees(voter) else 0.0, voter.groups.separation

    def _values_of(self, voter: HeadVoter) -> FloatArray:
        number = self.values.statistics.index(voter.statistic)
        return self._values(number, self.values.layers.index(voter.layer), voter.head)

    def _values(self, number: int, row: int, head: int) -> FloatArray:
        return self.values.values_RSLH[:, number, row, head].astype(np.float64)

    def _search(self, number: int, row: int, head: int) -> tuple[HeadVoter | None, str | None]:
        """Look at a head's values as they are.

        Gives what is found, and the confounder that explains it or, where nothing is found, on
        which the values depend.
        """
        histogram = self.values.histogram
        options = self._cut(number, row, head, histogram, (number, row, head))
        voter = self._best(options)
        if voter is not None:
            explanation = self.explanation_of(self.votes_of(voter) == 1)
            return voter, None if explanation is None else explanation.name
        values_R = self._values(number, row, head)
        shares = {
            name: variance_between(values_R, strata.pooled())
            for name, strata in self.strata.items()
            if strata.may_explain
        }
        most = max(shares, key=lambda name: shares[name], default=None)
        return None, most if most is not None and shares[most] >= DEPENDENT_SHARE else None

    def _search_within(self, number: int, row: int, head: int, name: str) -> HeadVoter | None:
        """Look at a head's values as they lie within the strata of one confounder."""
        values_R, strata = self._values(number, row, head), self.strata[name]
        scale = fit_stratum_scale(values_R, strata)
        flat_R = scale.standardize(values_R, strata.codes_N)
        histogram = ValueHistogram(-_FARTHEST, _FARTHEST, _NUM_BINS)
        histogram.add(np.clip(flat_R, -_FARTHEST, _FARTHEST))
        options = (
            replace(voter, confounder=name, stratum_scale=scale)
            for voter in self._cut(number, row, head, histogram, ())
        )
        voter = self._best(options)
        if voter is None or self.explanation_of(self.votes_of(voter) == 1) is not None:
            return None
        return voter

    def _cut(
        self, number: int, row: int, head: int, histogram: ValueHistogram, series: tuple[int, ...]
    ) -> Iterator[HeadVoter]:
        """Give a voter for each way to cut a head's values in two."""
        for groups in cut_in_two(
            *histogram.values_and_weights(*series),
            max_components=self.config.max_components,
            criterion=self.config.criterion,
            seed=self.seed,
        ):
            yield HeadVoter(
                statistic=self.values.statistics[number],
                layer=self.values.layers[row],
                head=head,
                groups=groups,
            )

    def _best(self, options: Iterable[HeadVoter]) -> HeadVoter | None:
        """Choose the cut that the second witness agrees with, else the one best separated."""
        kept = []
        for voter in options:
            if not self.config.min_share <= voter.groups.share < self.max_share:
                continue
            if voter.groups.overlap > self.config.max_overlap and not self.agrees(voter):
                continue
            voter = replace(voter, shift=self._shift(voter))
            if abs(voter.shift) >= self.config.min_shift:
                kept.append(voter)
        return max(kept, key=self._trust, default=None)

    def _shift(self, voter: HeadVoter) -> float:
        """Mean of the minority minus mean of the others, on the statistic's own scale."""
        raw_R = self.scale.restore(voter.statistic, self._values_of(voter))
        votes_R = self.votes_of(voter)
        if not (votes_R == 1).any() or not (votes_R == 0).any():
            return 0.0
        return float(raw_R[votes_R == 1].mean() - raw_R[votes_R == 0].mean())
