"""Heads as voters: which of them set a minority of the samples apart, and who votes alike.

Shapes: N = samples, R = samples kept whole, V = voters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.confounders import StratumScale
from bye_audit.core.dawid_skene import NO_VOTE
from bye_audit.core.groups import TwoGroups

FloatArray = NDArray[np.float64]
VoteArray = NDArray[np.int8]

_BEYOND = 0.5
_TIE_BREAK = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadVoter:
    """One statistic of one head, which says of each sample whether it is of the minority.

    Parameters
    ----------
    statistic, layer, head
        What is looked at.
    groups
        The two groups of its scaled values, or of these compared within strata.
    shift
        Mean of the minority minus mean of the others, as shares of attention or of the largest
        entropy.
    confounder, stratum_scale
        Strata within which values are compared; None: values are taken as they are.
    """

    statistic: str
    layer: int
    head: int
    groups: TwoGroups
    shift: float = 0.0
    confounder: str | None = None
    stratum_scale: StratumScale | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Layer and head."""
        return self.layer, self.head

    def compare(
        self, values_N: NDArray[np.floating], codes_N: NDArray[np.integer] | None = None
    ) -> FloatArray:
        """Put scaled values as the groups know them: as they are, or within their strata.

        Parameters
        ----------
        values_N
            Scaled values.
        codes_N
            Strata of ``confounder``, if there is one.
        """
        if self.stratum_scale is None:
            return np.asarray(values_N, dtype=np.float64)
        assert codes_N is not None, "a voter within strata is told the strata"
        return self.stratum_scale.standardize(values_N, codes_N)

    def vote(self, compared_N: FloatArray, *, threshold: float) -> VoteArray:
        """1 where the chance is above the threshold, 0 elsewhere, NO_VOTE where there is none."""
        chance_N = self.groups.minority_chance(compared_N)
        return np.where(np.isnan(chance_N), NO_VOTE, chance_N > threshold).astype(np.int8)

    def distance(self, compared_N: FloatArray) -> FloatArray:
        """How far each sample is on the way from the majority's mean, 0, to the minority's, 1.

        Held a little beyond either, so that no single head outweighs a panel.
        """
        start = self.groups.majority_mean
        way = self.groups.minority_mean - start
        return np.clip((compared_N - start) / way, -_BEYOND, 1 + _BEYOND)

    def to_json(self) -> dict[str, Any]:
        """Say what it looks at and how well that separates, as plain values."""
        return {
            "statistic": self.statistic,
            "layer": self.layer,
            "head": self.head,
            "within": self.confounder,
            "shift": self.shift,
            **self.groups.to_json(),
        }


def kappa_matrix(votes_RV: VoteArray) -> FloatArray:
    """Agreement beyond chance (Cohen's kappa) of every two voters.

    Parameters
    ----------
    votes_RV
        1, 0 or ``NO_VOTE``. Of two voters only samples count of which both say something.

    Returns
    -------
    numpy.ndarray
        (V, V), in [-1, 1]: 1 for the same votes, 0 for agreement by chance or no variation.
    """
    cast_RV = (votes_RV != NO_VOTE).astype(np.float64)
    yes_RV = (votes_RV == 1).astype(np.float64)
    num_both_VV, both_yes_VV = cast_RV.T @ cast_RV, yes_RV.T @ yes_RV
    first_yes_VV = yes_RV.T @ cast_RV
    second_yes_VV = first_yes_VV.T
    distance_VV = num_both_VV * both_yes_VV - first_yes_VV * second_yes_VV
    largest_VV = first_yes_VV * (num_both_VV - second_yes_VV)
    largest_VV += second_yes_VV * (num_both_VV - first_yes_VV)
    is_defined_VV = largest_VV > 0
    kappa_VV = np.where(is_defined_VV, 2 * distance_VV / np.where(is_defined_VV, largest_VV, 1), 0)
    return np.asarray(kappa_VV)


def kappa_with(votes_RV: VoteArray, is_member_R: NDArray[np.bool_]) -> FloatArray:
    """Agreement beyond chance of every voter with one group, shape (V,)."""
    both = np.concatenate([votes_RV, is_member_R[:, None].astype(np.int8)], axis=1)
    return np.asarray(kappa_matrix(both)[-1, :-1])


def support(is_member_R: NDArray[np.bool_], witness_R: NDArray[np.bool_]) -> float:
    """Excess of a witness's suspects in a group over those in all samples.

    1 if it suspects all members, 0 if it suspects as many of them as of all samples. Other suspects
    do not count against it: a witness may suspect more than one group.
    """
    rest = 1.0 - float(witness_R.mean())
    if not is_member_R.any() or rest == 0:
        return 0.0
    return 1.0 - (1.0 - float(witness_R[is_member_R].mean())) / rest


def form_panels(
    voters: Sequence[HeadVoter], votes_RV: VoteArray, *, min_kappa: float
) -> list[list[int]]:
    """Put voters together that set the same samples apart.

    Parameters
    ----------
    voters
        The more trusted, the earlier.
    votes_RV
        Their votes.
    min_kappa
        Least agreement with a panel's first member.

    Returns
    -------
    list of list of int
        Numbers of voters, in their order, each in at most one panel; a head sits only once in a
        panel, with the most trusted of its statistics.
    """
    kappa_VV = kappa_matrix(votes_RV)
    is_free = np.ones(len(voters), dtype=bool)
    panels = []
    for first in range(len(voters)):
        if not is_free[first]:
            continue
        alike = np.flatnonzero(is_free & (kappa_VV[first] >= min_kappa))
        # A voter without variation agrees with nobody, not even with itself.
        alike = np.union1d(alike, [first])
        is_free[alike] = False
        seats: dict[tuple[int, int], int] = {}
        for number in alike.tolist():
            seats.setdefault(voters[number].place, number)
        panels.append(list(seats.values()))
    return panels


def panel_score(distances_NV: FloatArray, values_NF: NDArray[np.floating]) -> FloatArray:
    """Mean of the distances that a panel's heads give each sample; NaN where none gives one.

    Parameters
    ----------
    distances_NV
        NaN where a head has no value.
    values_NF
        Everything known of the samples' attention. It tells apart, by less than a millionth,
        different samples whose chosen heads say the same; copies of one sample stay the same.
    """
    has_value_NV = np.isfinite(distances_NV)
    count_N = has_value_NV.sum(axis=1)
    total_N = np.where(has_value_NV, distances_NV, 0.0).sum(axis=1)
    score_N = np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)
    whole_N = np.nan_to_num(values_NF).mean(axis=1, dtype=np.float64)
    return np.asarray(score_N + _TIE_BREAK * whole_N)
