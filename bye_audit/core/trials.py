"""Yes-or-no trials: what a count of successes says of the chance behind it."""

from __future__ import annotations


def chance_at_least(num_hits: int, num_trials: int, confidence: float) -> float:
    """Exact lower bound of a success probability (Clopper and Pearson 1934), one-sided.

    Parameters
    ----------
    num_hits, num_trials
        Successes among independent trials.
    confidence
        Chance that the bound holds, in (0, 1).

    Returns
    -------
    float
        In [0, 1]; 0 without trials.

    Examples
    --------
    >>> round(chance_at_least(40, 40, 0.99), 3)
    0.891
    """
    from scipy.stats import beta

    if num_hits == 0:
        return 0.0
    return float(beta.ppf(1 - confidence, num_hits, num_trials - num_hits + 1))


def chance_at_most(num_hits: int, num_trials: int, confidence: float) -> float:
    """Exact upper bound of a success probability, one-sided; 1 without trials."""
    return 1.0 - chance_at_least(num_trials - num_hits, num_trials, confidence)
