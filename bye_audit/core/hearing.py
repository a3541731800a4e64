"""What a panel of heads says of every sample, read in batches.

Shapes: N = samples, B = samples of a batch, V = voters, P = distinct patterns of votes.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bye_audit.core.dawid_skene import DawidSkene, decode_votes, encode_votes, fit_dawid_skene
from bye_audit.core.detection import Evidence
from bye_audit.core.head_values import HeadScale
from bye_audit.core.voting import HeadVoter, panel_score

FloatArray = NDArray[np.float64]

# Of a sample that no head says anything of.
_SILENCE = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hearing:
    """A panel's votes on every sample: two numbers a sample, however many heads vote.

    Parameters
    ----------
    codes_N
        Votes in one number, see :func:`bye_audit.core.dawid_skene.encode_votes`.
    score_N
        Mean of the heads' distances: 0 for the typical majority, 1 for the typical minority; NaN
        where no head says anything.
    num_voters
        Heads of the panel.
    """

    codes_N: NDArray[np.int32]
    score_N: FloatArray
    num_voters: int

    def fit(self) -> DawidSkene:
        """Estimate how reliable each head is."""
        codes_P, counts_P = np.unique(self.codes_N[self.codes_N != _SILENCE], return_counts=True)
        return fit_dawid_skene(decode_votes(codes_P, self.num_voters), weights_N=counts_P)

    def log_odds(self, model: DawidSkene) -> FloatArray:
        """Log of the odds that each sample is of the minority; NaN where no head says anything."""
        codes_P, inverse_N = np.unique(self.codes_N, return_inverse=True)
        odds_P = model.log_odds(decode_votes(codes_P, self.num_voters))
        return np.where(codes_P == _SILENCE, np.nan, odds_P)[inverse_N]


def mean_overlap(
    hearing: Hearing, is_suspect_N: NDArray[np.bool_], *, num_resamples: int, seed: int
) -> float:
    """Mean Jaccard index of the suspects and those that resampled votes would give.

    Parameters
    ----------
    hearing
        The votes. Samples with the same votes are suspected or not together, so that a resample
        need only draw how often each pattern occurs.
    is_suspect_N
        Whom the votes make suspects.
    num_resamples, seed
        How many bootstrap samples of the votes are drawn, of the same panel.

    Returns
    -------
    float
        In [0, 1].
    """
    codes_P, first_P, counts_P = np.unique(hearing.codes_N, return_index=True, return_counts=True)
    is_heard_P = codes_P != _SILENCE
    first_P, counts_P = first_P[is_heard_P], counts_P[is_heard_P]
    votes_PV = decode_votes(codes_P[is_heard_P], hearing.num_voters)
    is_suspect_P = is_suspect_N[first_P]
    rng = np.random.default_rng([seed, num_resamples])
    overlaps = []
    for drawn_P in rng.multinomial(counts_P.sum(), counts_P / counts_P.sum(), num_resamples):
        again_P = fit_dawid_skene(votes_PV, weights_N=drawn_P).log_odds(votes_PV) > 0
        either = float(counts_P[is_suspect_P | again_P].sum())
        both = float(counts_P[is_suspect_P & again_P].sum())
        overlaps.append(both / either if either else 1.0)
    return float(np.mean(overlaps))


def hear_panel(
    evidence: Evidence, voters: Sequence[HeadVoter], scale: HeadScale, *, threshold: float
) -> Hearing:
    """Go through all samples once more and keep what the panel says.

    Parameters
    ----------
    evidence
        With statistics of heads, and the strata within which voters compare.
    voters
        The panel.
    scale
        That its groups are in.
    threshold
        Chance above which a head votes yes.

    Returns
    -------
    Hearing
        In the order of the evidence.
    """
    assert evidence.heads is not None
    codes_N = np.full(len(evidence.entropy_NL), _SILENCE, dtype=np.int32)
    score_N = np.full(codes_N.size, np.nan)
    names = sorted({voter.statistic for voter in voters})
    for rows_B, batch in evidence.heads.batches(names):
        votes_BV = np.empty((rows_B.size, len(voters)), dtype=np.int8)
        distances_BV = np.empty(votes_BV.shape)
        for column, voter in enumerate(voters):
            values_B = batch[voter.statistic][:, voter.layer, voter.head]
            strata = None if voter.confounder is None else evidence.strata[voter.confounder]
            compared_B = voter.compare(
                scale.apply(voter.statistic, values_B, rows_B),
                None if strata is None else strata.codes_N[rows_B],
            )
            votes_BV[:, column] = voter.vote(compared_B, threshold=threshold)
            distances_BV[:, column] = voter.distance(compared_B)
        codes_N[rows_B] = encode_votes(votes_BV)
        values_BF = np.concatenate([batch[name].reshape(rows_B.size, -1) for name in names], axis=1)
        score_N[rows_B] = panel_score(distances_BV, values_BF)
    return Hearing(codes_N=codes_N, score_N=score_N, num_voters=len(voters))
