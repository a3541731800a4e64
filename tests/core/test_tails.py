"""Groups of their own against tails: known groups, single modes of many shapes, other oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bye_audit.core.gaussians import sorted_values
from bye_audit.core.mixture import fit_two_gaussians
from bye_audit.core.starts import SortedValues
from bye_audit.core.tails import MIN_GAP, GroupEvidence, weigh_group

Draw = Callable[[np.random.Generator, int], np.ndarray]
ONE_MODE: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n),
    "skewed": lambda rng, n: -rng.gamma(2, 1, n),
    "long tail": lambda rng, n: -rng.lognormal(0, 0.8, n),
    "exponential": lambda rng, n: -rng.exponential(size=n),
}


def weigh(values: np.ndarray, cut: float, center: float) -> GroupEvidence:
    return weigh_group(SortedValues(*sorted_values(values)), cut=cut, center=center)


@pytest.mark.parametrize("num_values", [100, 1000, 8000])
@pytest.mark.parametrize("name", ONE_MODE)
def test_the_low_component_of_one_mode_is_no_group(
    rng: np.random.Generator, name: str, num_values: int
) -> None:
    values = ONE_MODE[name](rng, num_values)
    mixture = fit_two_gaussians(values).mixture
    cut = mixture.cut()
    low = values.min() if cut is None else cut
    assert not weigh(values, low, float(np.median(values))).is_beyond_doubt


@pytest.mark.parametrize(("num_values", "rate"), [(600, 0.02), (600, 0.1), (6000, 0.01)])
def test_a_group_is_told_from_a_tail(
    rng: np.random.Generator, num_values: int, rate: float
) -> None:
    is_low = np.arange(num_values) < rate * num_values
    values = np.where(is_low, rng.normal(-5, 0.5, num_values), rng.normal(size=num_values))
    evidence = weigh(values, -3.5, 0.0)
    assert evidence.is_beyond_doubt
    assert evidence.delta_bic_tail > 10
    mirrored = weigh(-values, 3.5, 0.0)
    assert mirrored.gap == pytest.approx(evidence.gap, rel=0.1)
    assert mirrored.is_beyond_doubt


def test_a_gap_by_hand() -> None:
    # 50 values evenly in [0, 1], none in (1, 4), 500 from there on.
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(4, 6, 500)])
    # Of 50 values in a length of 4, all in the outer quarter: 50 log 4.
    assert weigh(values, 1.0, 5.0).gap == pytest.approx(50 * math.log(4), rel=0.1)


def test_a_gap_counts_whatever_the_shapes_are(rng: np.random.Generator) -> None:
    # Three modes: two Gaussians describe nothing here.
    values = np.concatenate(
        [rng.uniform(0, 1, 300), rng.uniform(4, 5, 1000), rng.uniform(7, 9, 1000)]
    )
    evidence = weigh(values, 1.0, 6.0)
    assert evidence.delta_bic_third > 10
    assert evidence.gap > MIN_GAP
    assert evidence.is_beyond_doubt


def test_a_valley_by_hand(rng: np.random.Generator) -> None:
    # Nothing between: of each suspect's two places one is empty, n log 2.
    far = np.concatenate([rng.normal(-30, 1, 30), rng.normal(0, 1, 300)])
    assert weigh(far, -15.0, 0.0).valley == pytest.approx(30 * math.log(2), rel=1e-3)
    # Equal weights 4 deviations apart: at the middle 2 exp(-2) of a peak's height, which is 1.
    near = np.concatenate([rng.normal(-2, 1, 20_000), rng.normal(2, 1, 20_000)])
    depth = 2 * math.exp(-2)
    ratio = math.log(2 / (1 + depth)) + depth * math.log(2 * depth / (1 + depth))
    assert weigh(near, 0.0, 2.0).valley == pytest.approx(20_000 * ratio, rel=0.1)


def test_a_shoulder_as_wide_as_the_others_is_a_group(rng: np.random.Generator) -> None:
    # No valley to see and no gap: only the shapes tell.
    values = np.concatenate([rng.normal(-3.3, 1, 300), rng.normal(0, 1, 2700)])
    evidence = weigh(values, -2.5, 0.0)
    assert evidence.gap < MIN_GAP
    assert evidence.width == pytest.approx(1, abs=0.25)
    assert evidence.num_suspects == (values <= -2.5).sum()
    assert evidence.is_beyond_doubt
    mirrored = weigh(-values, 2.5, 0.0)
    assert mirrored.width == pytest.approx(evidence.width, rel=1e-3)
    assert mirrored.num_suspects == evidence.num_suspects


def test_one_mode_has_no_valley(rng: np.random.Generator) -> None:
    assert weigh(rng.gamma(2, 1, 2000), 5.0, 1.5).valley == pytest.approx(0, abs=0.5)


def test_outliers_scattered_below_a_mode_are_no_group(rng: np.random.Generator) -> None:
    # Two Gaussians describe this better than any mode with a tail, and a third is not needed.
    values = np.concatenate([rng.normal(size=980), -2.05 - rng.exponential(2.5, 20)])
    evidence = weigh(values, -3.2, 0.0)
    assert not evidence.is_beyond_doubt


def test_constant_values_have_no_evidence() -> None:
    evidence = weigh(np.full(50, 3.0), 2.9, 3.0)
    assert evidence.to_json() == {
        "gap": 0.0,
        "delta_bic_tail": 0.0,
        "delta_bic_third": 0.0,
        "valley": 0.0,
        "width": 1.0,
        "num_suspects": 0.0,
    }
    assert not evidence.is_beyond_doubt


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), scale=st.floats(0.05, 50))
def test_evidence_is_unmoved_by_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(-5, 1, 30), rng.normal(size=300)])
    one = weigh(values, -3.0, 0.0)
    two = weigh(values * scale + shift, -3.0 * scale + shift, shift)
    assert two.gap == pytest.approx(one.gap, rel=1e-3, abs=1e-3)
    assert two.delta_bic_tail == pytest.approx(one.delta_bic_tail, abs=0.5)


@pytest.mark.parametrize(("skew", "tail"), [(0.0, 1.0), (1.5, 2.0), (-1.0, 1.2)])
def test_the_tailed_mode_is_as_likely_as_scipys(
    rng: np.random.Generator, skew: float, tail: float
) -> None:
    values = stats.johnsonsu(skew, tail).rvs(1500, random_state=rng)
    theirs = stats.johnsonsu(*stats.johnsonsu.fit(values)).logpdf(values).sum()
    truth = stats.johnsonsu(skew, tail).logpdf(values).sum()
    evidence = weigh(values, float(np.quantile(values, 0.05)), float(np.median(values)))
    bic_of_two = -evidence.delta_bic_tail  # plus the BIC of the mode, which is what is asked for
    mixture_bic = _bic_of_two(values)
    ours = (4 * math.log(values.size) - (mixture_bic - bic_of_two)) / 2
    assert ours > max(theirs, truth) - 0.5


def _bic_of_two(values: np.ndarray) -> float:
    fit = fit_two_gaussians(values)
    bic_of_one = 2 * math.log(values.size) + values.size * (
        math.log(2 * math.pi * values.var()) + 1
    )
    return bic_of_one - fit.delta_bic
