"""What else sets samples apart: named strata, how far they explain a split, fits within them.

Attention is bimodal for innocent reasons too: two kinds of questions, two sizes of images. But
poison also comes in strata: of one source, of one answer's length, with one word in each question.
So three rules hold.

1. Only what was known before any model saw the data and is not taken from the answer (question,
   image size, number of image tokens) may be taken out of the values before they are split.
2. What follows from the answer (its length) or may be the attacker himself (source, copies of one
   image) is named beside a finding and never excuses it: a fixed target has one length.
3. Even a question may carry the trigger. A split that strata explain is therefore not acted upon,
   but it is told, with the stratum's name.

Shapes: N = samples, R = strata, P = strata after pooling.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

UNKNOWN = -1
"""Code of a sample whose stratum is not known."""
MIN_STRATUM = 50
"""Strata with fewer samples are pooled: a median of less is mostly chance."""
EXPLAINED_V = 0.5
"""Cramer's V from which strata explain a split: a quarter of its variance lies between them. Poison
in 3 of 10 samples of one of three equal strata, and in no other, has 0.47 and is not excused."""
DEPENDENT_SHARE = 0.1
"""Share of the values' variance between strata from which a head is also looked at within them."""

# Share of a group in one stratum, and of the others in it, from and to which that is told.
_ALIKE, _RARE = 0.9, 0.5
# A stratum in which values hardly differ would otherwise turn its own noise into outliers.
_LEAST_RELATIVE_SCALE = 0.5
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Strata:
    """One way to sort the samples into kinds.

    Parameters
    ----------
    name
        What is told apart, such as ``question`` or ``image_size``.
    codes_N
        Stratum of each sample, from 0; :data:`UNKNOWN` where there is none.
    labels
        Name of each stratum, by code. May hold text from the data: escape before showing.
    may_explain
        Whether values may be compared within strata (the first rule above).
    """

    name: str
    codes_N: NDArray[np.integer]
    labels: tuple[str, ...]
    may_explain: bool

    def take(self, rows: NDArray[np.integer]) -> Strata:
        """Strata of some of the samples."""
        return Strata(
            name=self.name,
            codes_N=self.codes_N[rows],
            labels=self.labels,
            may_explain=self.may_explain,
        )

    def pooling(self, min_size: int = MIN_STRATUM) -> NDArray[np.int64]:
        """Give the pooled stratum by ``code + 1``; small and unknown ones share the last."""
        codes_N = np.asarray(self.codes_N, dtype=np.int64)
        size_R = np.bincount(codes_N + 1, minlength=len(self.labels) + 1)
        is_large_R = size_R >= min_size
        is_large_R[0] = False
        return np.where(is_large_R, np.cumsum(is_large_R) - 1, is_large_R.sum())

    def pooled(self, min_size: int = MIN_STRATUM) -> NDArray[np.int64]:
        """Pooled stratum of each sample, from 0."""
        return self.pooling(min_size)[np.asarray(self.codes_N, dtype=np.int64) + 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Association:
    """How far strata and a group of samples go together.

    Parameters
    ----------
    name
        Of the strata.
    cramers_v
        In [0, 1]: 0 for independence, 1 where the stratum tells who is in the group. Corrected for
        the bias of many strata. Its square is the share of the group's variance between strata.
    chi2, degrees_of_freedom, p_value
        Pearson's test of independence.
    label
        Stratum that holds most of the group.
    share_of_group
        Share of the group in that stratum.
    share_elsewhere
        Share of all other samples in that stratum.
    may_explain
        Whether the group may be innocent for this reason.
    """

    name: str
    cramers_v: float
    chi2: float
    degrees_of_freedom: int
    p_value: float
    label: str
    share_of_group: float
    share_elsewhere: float
    may_explain: bool

    @property
    def explains(self) -> bool:
        """Whether the group is what these strata tell apart, and may be for an innocent reason."""
        return self.may_explain and self.cramers_v >= EXPLAINED_V

    @property
    def is_telling(self) -> bool:
        """Whether a reader should know: the strata tell the group, or nearly all of it is alike."""
        is_alike = self.share_of_group >= _ALIKE and self.share_elsewhere <= _RARE
        return self.cramers_v >= EXPLAINED_V or is_alike

    @property
    def kind(self) -> str:
        """Name of the strata in words."""
        return self.name.replace("_", " ")

    def in_words(self) -> str:
        """Say what most of the group have in common, and whether others have it too.

        The label may be the data's own text: it comes in quotes and with controls escaped.
        """
        return (
            f"{self.share_of_group:.0%} of them have the {self.kind} {self.label!r}, as do "
            f"{self.share_elsewhere:.0%} of the others"
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers as plain values."""
        return {
            "cramers_v": self.cramers_v,
            "chi2": self.chi2,
            "degrees_of_freedom": self.degrees_of_freedom,
            "p_value": self.p_value,
            "label": self.label,
            "share_of_group": self.share_of_group,
            "share_elsewhere": self.share_elsewhere,
            "may_explain": self.may_explain,
        }


def associate(is_member_N: BoolArray, strata: Strata) -> Association:
    r"""Measure how well strata tell a group's members from all others.

    Parameters
    ----------
    is_member_N
        Who is in the group.
    strata
        Of the same samples. Small strata are pooled.

    Returns
    -------
    Association
        With a V of 0 if either side is empty or there is only one stratum.

    Notes
    -----
    Cramer's V of a table of 2 rows is :math:`\sqrt{\chi^2 / N}`; corrected for bias as in [1]_.

    References
    ----------
    .. [1] Bergsma, "A bias-correction for Cramer's V and Tschuprow's T", 2013.
       doi:10.1016/j.jkss.2012.10.002.
    """
    is_member_N = np.asarray(is_member_N, dtype=bool)
    codes_N = strata.pooled()
    size_R = np.bincount(codes_N).astype(np.float64)
    member_R = np.bincount(codes_N, is_member_N, size_R.size)
    num_samples, num_members = float(size_R.sum()), float(member_R.sum())
    used_R = size_R > 0
    degrees = int(used_R.sum()) - 1
    share = num_members / num_samples if num_samples else 0.0
    chi2 = 0.0
    if degrees > 0 and 0 < share < 1:
        expected_R = size_R[used_R] * share
        # Both rows of the table at once: their deviations are the same but for the sign.
        chi2 = float(((member_R[used_R] - expected_R) ** 2 / expected_R).sum() / (1 - share))
    top = int(member_R.argmax()) if num_members else int(size_R.argmax())
    return Association(
        name=strata.name,
        cramers_v=_corrected_v(chi2, num_samples, degrees),
        chi2=chi2,
        degrees_of_freedom=max(degrees, 0),
        p_value=float(chi2_distribution.sf(chi2, degrees)) if degrees > 0 else 1.0,
        label=_label(strata, codes_N, top),
        share_of_group=_ratio(member_R[top], num_members),
        share_elsewhere=_ratio(size_R[top] - member_R[top], num_samples - num_members),
        may_explain=strata.may_explain,
    )


def associate_all(is_member_N: BoolArray, strata: Iterable[Strata]) -> list[Association]:
    """Measure every confounder, the strongest first."""
    found = [associate(is_member_N, item) for item in strata]
    return sorted(found, key=lambda item: (-item.cramers_v, item.name))


def variance_between(values_N: FloatArray, codes_N: NDArray[np.integer]) -> float:
    """Share of the finite values' variance that lies between strata (eta squared), in [0, 1].

    Corrected for the share that strata without meaning would have.
    """
    is_finite_N = np.isfinite(values_N)
    values, codes = values_N[is_finite_N], np.asarray(codes_N)[is_finite_N]
    if values.size < 2 or not values.std():
        return 0.0
    size_R = np.bincount(codes)
    mean_R = np.bincount(codes, values) / np.maximum(size_R, 1)
    within = float(((values - mean_R[codes]) ** 2).sum())
    freedom = values.size - int((size_R > 0).sum())
    if freedom <= 0:
        return 0.0
    total = float(((values - values.mean()) ** 2).sum())
    return max(0.0, 1.0 - (within / freedom) / (total / (values.size - 1)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StratumScale:
    """Where each stratum's values lie and how far they spread, robustly.

    Parameters
    ----------
    center_R, scale_R
        Median and spread of each stratum, by ``code + 1``.
    """

    center_R: FloatArray
    scale_R: FloatArray

    def standardize(
        self, values_N: NDArray[np.floating], codes_N: NDArray[np.integer]
    ) -> FloatArray:
        """Distance of each value from its stratum's center, in units of its spread."""
        rows_N = np.asarray(codes_N, dtype=np.int64) + 1
        return np.asarray((values_N - self.center_R[rows_N]) / self.scale_R[rows_N])


def fit_stratum_scale(
    values_N: FloatArray, strata: Strata, min_size: int = MIN_STRATUM
) -> StratumScale:
    """Take median and median absolute deviation of each stratum.

    Parameters
    ----------
    values_N
        NaN where there is none.
    strata
        Of the same samples.
    min_size
        Strata with fewer samples are pooled.

    Returns
    -------
    StratumScale
        Scales are standard deviations where values are normal. None is below half of the typical
        one, and a stratum without values gets the typical center and scale.

    Notes
    -----
    A median stays with the clean samples while fewer than half of a stratum are poison; where more
    are, it is the clean ones that stand out. A group that such a fit finds lies in few strata, and
    :func:`associate` says so.
    """
    number_R = strata.pooling(min_size)
    center_P, scale_P = _robust_moments(values_N, strata.pooled(min_size), int(number_R.max()) + 1)
    has_values_P = np.isfinite(center_P)
    if not has_values_P.any():
        return StratumScale(center_R=np.zeros(number_R.size), scale_R=np.ones(number_R.size))
    typical = float(np.median(scale_P[has_values_P]))
    center_P[~has_values_P] = np.median(center_P[has_values_P])
    scale_P[~has_values_P] = typical
    # Without any spread every difference would be infinitely far: it counts as it is.
    scale_P = np.maximum(scale_P, _LEAST_RELATIVE_SCALE * typical) if typical else scale_P * 0 + 1
    return StratumScale(center_R=center_P[number_R], scale_R=scale_P[number_R])


def _robust_moments(
    values_N: FloatArray, codes_N: NDArray[np.int64], num_strata: int
) -> tuple[FloatArray, FloatArray]:
    center_P, scale_P = np.full(num_strata, np.nan), np.full(num_strata, np.nan)
    order = np.argsort(codes_N, kind="stable")
    ends = np.cumsum(np.bincount(codes_N, minlength=num_strata))
    for number, rows in enumerate(np.split(order, ends[:-1])):
        values = values_N[rows]
        values = values[np.isfinite(values)]
        if values.size:
            center_P[number] = np.median(values)
            scale_P[number] = _MAD_TO_SIGMA * np.median(np.abs(values - center_P[number]))
    return center_P, scale_P


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _corrected_v(chi2: float, num_samples: float, degrees: int) -> float:
    if degrees < 1 or num_samples < 2:
        return 0.0
    rest = num_samples - 1
    phi2 = max(0.0, chi2 / num_samples - degrees / rest)
    # Of the two dimensions of the table the one with two rows is the smaller, corrected as well.
    num_columns = degrees + 1 - degrees**2 / rest
    least = min(1.0 - 1.0 / rest, num_columns - 1.0)
    return min(1.0, math.sqrt(phi2 / least)) if least > 0 else 0.0


def _label(strata: Strata, codes_N: NDArray[np.int64], pooled_code: int) -> str:
    """Name a pooled stratum: by its own label if it holds a single one."""
    inside = np.unique(np.asarray(strata.codes_N)[codes_N == pooled_code])
    if inside.size == 1 and inside[0] != UNKNOWN:
        return strata.labels[int(inside[0])]
    return "rare or unknown"
