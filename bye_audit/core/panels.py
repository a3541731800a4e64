"""Heads that set the same samples apart, judged together: is it a group, and what explains it.

Shapes: R = samples kept whole, V = voters.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import TcapConfig
from bye_audit.core.confounders import Association
from bye_audit.core.dawid_skene import NO_VOTE
from bye_audit.core.gaussians import sorted_values
from bye_audit.core.head_search import HeadSearch
from bye_audit.core.starts import SortedValues
from bye_audit.core.tails import GroupEvidence, weigh_group
from bye_audit.core.voting import HeadVoter, form_panels, kappa_with, panel_score, support

BoolArray = NDArray[np.bool_]

# Fewer different samples are outliers, however many copies of them there are.
_FEWEST_MEMBERS = 5
# Excess of one group's members in another from which both are taken for the same.
_SAME_GROUP = 0.5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """Heads that set the same samples apart.

    Parameters
    ----------
    voters
        The most trusted first, no head twice.
    members_R
        Samples kept whole that more than half of them vote for.
    group
        What speaks for these being a group and not the tail of the others.
    explanation
        The confounder that tells them apart, if one does.
    witness_kappa, witness_support
        Agreement of the members with the second witness's suspects beyond chance (Cohen's kappa),
        and the excess share of the members that it suspects; None without one.
    """

    voters: list[HeadVoter]
    members_R: BoolArray
    group: GroupEvidence
    explanation: Association | None
    witness_kappa: float | None
    witness_support: float | None

    def has_witness(self, least: float) -> bool:
        """Whether the second witness suspects this excess share of the members at least."""
        return self.witness_support is not None and self.witness_support >= least

    def to_json(self) -> dict[str, Any]:
        """Size, heads and evidence, as plain values."""
        return {
            "share": float(self.members_R.mean()),
            "heads": [[voter.statistic, voter.layer, voter.head] for voter in self.voters],
            "gap": self.group.gap,
            "explained_by": None if self.explanation is None else self.explanation.name,
            "witness_kappa": self.witness_kappa,
            "witness_support": self.witness_support,
        }


def find_panels(
    voters: Sequence[HeadVoter], search: HeadSearch, witness_R: BoolArray | None
) -> list[Panel]:
    """Put heads together that set the same samples apart, and keep those that are convincing.

    Parameters
    ----------
    voters
        The most trusted first.
    search
        That found them.
    witness_R
        A group that a second witness found, to compare with; None without one.

    Returns
    -------
    list of Panel
        Of those with heads enough and a group beyond doubt, and, if the second witness was asked to
        choose, of those that it agrees with. First the panel whose last head needed is best
        separated.

    Notes
    -----
    A single head's minority may be its tail, and so may that of several heads that see the same.
    Where the mean of their values thins out and becomes dense again there is a group, whatever the
    shape of the rest (:func:`bye_audit.core.tails.weigh_group`): what a trigger does adds up over
    the heads, and their noise does not.
    """
    settings = search.config
    found = []
    for panel in _panels(voters, search, witness_R):
        chosen = is_chosen(panel.witness_kappa, settings)
        if chosen or (len(panel.voters) >= settings.min_heads and panel.group.is_beyond_doubt):
            last = panel.voters[min(settings.min_heads, len(panel.voters)) - 1]
            found.append((chosen, last.groups.separation, panel))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    return [panel for _, _, panel in found]


def _panels(
    voters: Sequence[HeadVoter], search: HeadSearch, witness_R: BoolArray | None
) -> Iterator[Panel]:
    if not voters:
        return
    settings = search.config
    votes_RV = np.stack([search.votes_of(voter) for voter in voters], axis=1)
    values_RF = search.values.values_RSLH.reshape(len(votes_RV), -1)
    for numbers in form_panels(voters, votes_RV, min_kappa=settings.min_kappa):
        seats = numbers[: settings.num_heads]
        cast_R = (votes_RV[:, seats] != NO_VOTE).sum(axis=1)
        members_R = (votes_RV[:, seats] == 1).sum(axis=1) * 2 > cast_R
        kappa = None
        if witness_R is not None:
            kappa = float(kappa_with(members_R[:, None].astype(np.int8), witness_R)[0])
        if len(seats) < settings.min_heads and not is_chosen(kappa, search.config):
            continue
        chosen = [voters[number] for number in seats]
        distances_RV = np.stack([v.distance(search.compared(v)) for v in chosen], axis=1)
        score_R = panel_score(distances_RV, values_RF)
        if np.unique(score_R[members_R]).size < _FEWEST_MEMBERS or members_R.all():
            continue
        yield Panel(
            voters=chosen,
            members_R=members_R,
            group=_weigh(score_R, members_R),
            explanation=search.explanation_of(members_R),
            witness_kappa=kappa,
            witness_support=None if witness_R is None else support(members_R, witness_R),
        )


def is_rival(first: Panel, second: Panel) -> bool:
    """Whether two panels set different samples apart, neither mostly a part of the other."""
    forth = support(second.members_R, first.members_R)
    return max(forth, support(first.members_R, second.members_R)) < _SAME_GROUP


def is_chosen(kappa: float | None, settings: TcapConfig) -> bool:
    """Whether the second witness, asked to choose, means the same samples."""
    return (
        settings.agree_with is not None
        and kappa is not None
        and kappa >= settings.min_witness_agreement
    )


def _weigh(score_R: NDArray[np.float64], members_R: BoolArray) -> GroupEvidence:
    """Hold the members' scores against the tail of the others; copies of a sample count once."""
    has_score_R = np.isfinite(score_R)
    return weigh_group(
        SortedValues(*sorted_values(np.unique(score_R[has_score_R]))),
        cut=float(score_R[has_score_R & members_R].min()),
        center=float(np.median(score_R[has_score_R & ~members_R])),
    )
