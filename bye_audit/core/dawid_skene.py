"""Yes-or-no votes of witnesses that err: how reliable each is, and what they say together.

Shapes: N = samples, W = witnesses, P = distinct patterns of votes.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlog1py, xlogy

FloatArray = NDArray[np.float64]

NO_VOTE = -1
"""In place of 1 (yes) or 0 (no): this witness says nothing of this sample."""
MAX_WITNESSES = 19
"""More would not fit a sample's votes into one 32-bit code."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DawidSkene:
    """A fitted model of votes: a class for each sample, and for each witness how it errs.

    Parameters
    ----------
    prevalence
        Share of samples of the positive class, in (0, 1).
    sensitivity_W, specificity_W
        Chance that a witness says yes of a positive, and no of a negative.
    objective
        Log-likelihood of the votes, with the log density of the smoothing, before each step and
        after the last: it never falls.
    has_converged
        Whether the last step gained less than the tolerance.
    """

    prevalence: float
    sensitivity_W: FloatArray
    specificity_W: FloatArray
    objective: tuple[float, ...]
    has_converged: bool

    @property
    def informedness(self) -> FloatArray:
        """Sensitivity + specificity - 1 of each witness (Youden's J): 0 for one that guesses."""
        return self.sensitivity_W + self.specificity_W - 1

    def log_odds(self, votes_NW: NDArray[np.integer]) -> FloatArray:
        """Log of the odds that each sample is positive, in nats; higher is worse."""
        votes_NW = np.asarray(votes_NW)
        # Without smoothing a vote may be impossible under either class, and says nothing then.
        with np.errstate(divide="ignore", invalid="ignore"):
            yes_W = np.log(self.sensitivity_W) - np.log1p(-self.specificity_W)
            no_W = np.log1p(-self.sensitivity_W) - np.log(self.specificity_W)
            prior = float(np.log(self.prevalence) - np.log1p(-self.prevalence))
        yes_W, no_W = np.nan_to_num((yes_W, no_W), posinf=np.inf, neginf=-np.inf)
        said_NW = np.where(votes_NW == 1, yes_W, np.where(votes_NW == 0, no_W, 0.0))
        return np.asarray(said_NW.sum(axis=1) + prior)

    def posterior(self, votes_NW: NDArray[np.integer]) -> FloatArray:
        """Chance that each sample is positive, in [0, 1]; higher is worse."""
        return np.asarray(expit(self.log_odds(votes_NW)))


def fit_dawid_skene(
    votes_NW: NDArray[np.integer],
    *,
    weights_N: NDArray[np.floating] | NDArray[np.integer] | None = None,
    smoothing: float = 0.5,
    tol: float = 1e-9,
    max_steps: int = 1_000,
) -> DawidSkene:
    r"""Estimate witnesses' errors and the positives' share from the votes alone.

    Parameters
    ----------
    votes_NW
        1 for yes, 0 for no, :data:`NO_VOTE` for nothing said.
    weights_N
        How often each row counts, such as the counts of distinct patterns. None: once.
    smoothing
        Imaginary samples added to each cell of each witness's confusion matrix and to each class.
        0 gives plain maximum likelihood.
    tol
        Stop when a step gains less than this, in nats a sample.
    max_steps
        Most steps.

    Returns
    -------
    DawidSkene
        The positive class is the one that witnesses agree on by saying yes: the start makes it so.

    Raises
    ------
    ValueError
        If there are no votes, a vote is none of the three, or the weights do not fit.

    Notes
    -----
    Expectation-maximisation of [1]_ for two classes, started from each sample's share of yes votes.
    Witnesses are taken to err independently of each other given the class. With two witnesses the
    errors cannot be told from the class (5 parameters, 3 frequencies); three are the fewest that
    can (7 and 7).

    Departs from [1]_: half a sample of smoothing (Jeffreys' prior) keeps every chance off 0 and 1,
    so that a pattern that was not there at the fit has a posterior too.

    References
    ----------
    .. [1] Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
       Algorithm", Applied Statistics 28(1), 1979. doi:10.2307/2346806.

    Examples
    --------
    >>> votes_NW = np.array([[1, 1, 1]] * 10 + [[0, 0, 0]] * 89 + [[1, 0, 0]])
    >>> fit = fit_dawid_skene(votes_NW)
    >>> round(fit.prevalence, 2), fit.posterior(votes_NW[[0, 50, 99]]).round(1).tolist()
    (0.1, [1.0, 0.0, 0.0])
    """
    votes_NW, weights_N = _checked(votes_NW, weights_N)
    codes_N = encode_votes(votes_NW)
    codes_P, inverse_N = np.unique(codes_N, return_inverse=True)
    weights_P = np.bincount(inverse_N, weights_N, codes_P.size)
    votes_PW = decode_votes(codes_P, votes_NW.shape[1])
    yes_PW, no_PW = (votes_PW == 1).astype(np.float64), (votes_PW == 0).astype(np.float64)
    cast_P = (yes_PW + no_PW).sum(axis=1)
    chance_P = np.divide(
        yes_PW.sum(axis=1), cast_P, out=np.full(cast_P.size, 0.5), where=cast_P > 0
    )
    objective: list[float] = []
    while True:
        counts = (weights_P * chance_P, weights_P * (1 - chance_P))
        found = _maximize(yes_PW, no_PW, *counts, smoothing)
        positive_P, negative_P = _log_joint(yes_PW, no_PW, *found)
        evidence_P = np.logaddexp(positive_P, negative_P)
        objective.append(float(weights_P @ evidence_P) + _log_prior(*found, smoothing))
        gain = objective[-1] - objective[-2] if len(objective) > 1 else np.inf
        has_converged = bool(gain < tol * weights_P.sum())
        if has_converged or len(objective) > max_steps:
            break
        chance_P = np.exp(positive_P - evidence_P)
    prevalence, sensitivity_W, specificity_W = found
    return DawidSkene(
        prevalence=prevalence,
        sensitivity_W=sensitivity_W,
        specificity_W=specificity_W,
        objective=tuple(objective),
        has_converged=has_converged,
    )


def encode_votes(votes_NW: NDArray[np.integer]) -> NDArray[np.int32]:
    """Put each sample's votes into one number; :func:`decode_votes` takes them out again."""
    num_witnesses = votes_NW.shape[1]
    if not 1 <= num_witnesses <= MAX_WITNESSES:
        raise ValueError(f"there must be 1 to {MAX_WITNESSES} witnesses, not {num_witnesses}")
    power_W = 3 ** np.arange(num_witnesses, dtype=np.int64)
    return ((np.asarray(votes_NW, dtype=np.int64) + 1) @ power_W).astype(np.int32)


def decode_votes(codes_N: NDArray[np.integer], num_witnesses: int) -> NDArray[np.int8]:
    """Take the votes of ``num_witnesses`` out of their codes."""
    power_W = 3 ** np.arange(num_witnesses, dtype=np.int64)
    digits_NW = np.asarray(codes_N, dtype=np.int64)[:, None] // power_W % 3
    return (digits_NW - 1).astype(np.int8)


def _checked(
    votes_NW: NDArray[np.integer], weights_N: NDArray[np.number] | None
) -> tuple[NDArray[np.int8], FloatArray]:
    votes_NW = np.asarray(votes_NW)
    if votes_NW.ndim != 2 or not votes_NW.size:
        raise ValueError(f"votes must have samples and witnesses, got shape {votes_NW.shape}")
    if not np.isin(votes_NW, (NO_VOTE, 0, 1)).all():
        raise ValueError("a vote is 1, 0 or NO_VOTE")
    weights = np.ones(len(votes_NW)) if weights_N is None else np.asarray(weights_N, dtype=float)
    if weights.shape != (len(votes_NW),) or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("weights must be one a sample, not negative and not all zero")
    return votes_NW.astype(np.int8), weights


def _maximize(
    yes_PW: FloatArray,
    no_PW: FloatArray,
    positive_P: FloatArray,
    negative_P: FloatArray,
    smoothing: float,
) -> tuple[float, FloatArray, FloatArray]:
    """Estimate prevalence, sensitivities and specificities from expected counts."""
    hit_W, miss_W = positive_P @ yes_PW + smoothing, positive_P @ no_PW + smoothing
    alarm_W, reject_W = negative_P @ yes_PW + smoothing, negative_P @ no_PW + smoothing
    num_positive, num_negative = positive_P.sum() + smoothing, negative_P.sum() + smoothing
    return (
        float(num_positive / (num_positive + num_negative)),
        _share(hit_W, miss_W),
        _share(reject_W, alarm_W),
    )


def _share(part_W: FloatArray, rest_W: FloatArray) -> FloatArray:
    """Part of the whole; one half where there is nothing, which says nothing."""
    whole_W = part_W + rest_W
    share_W: FloatArray = np.full(part_W.shape, 0.5)
    return np.divide(part_W, whole_W, out=share_W, where=whole_W > 0)


def _log_joint(
    yes_PW: FloatArray,
    no_PW: FloatArray,
    prevalence: float,
    sensitivity_W: FloatArray,
    specificity_W: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Log of the chance of each pattern together with each class."""
    positive_PW = xlogy(yes_PW, sensitivity_W) + xlog1py(no_PW, -sensitivity_W)
    negative_PW = xlog1py(yes_PW, -specificity_W) + xlogy(no_PW, specificity_W)
    with np.errstate(divide="ignore"):
        return (
            positive_PW.sum(axis=1) + np.log(prevalence),
            negative_PW.sum(axis=1) + np.log1p(-prevalence),
        )


def _log_prior(
    prevalence: float, sensitivity_W: FloatArray, specificity_W: FloatArray, smoothing: float
) -> float:
    shares = np.concatenate([[prevalence], sensitivity_W, specificity_W])
    return float((xlogy(smoothing, shares) + xlog1py(smoothing, -shares)).sum())
