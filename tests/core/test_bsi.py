"""Separation of layers, and which of them count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bye_audit.core.bsi import (
    LayerRule,
    aggregate_entropy,
    bimodal_separation_index,
    profile_layers,
)
from bye_audit.core.mixture import TwoGaussians

FINITE = st.floats(-10, 10)
VARIANCE = st.floats(0.01, 10)


def test_bsi_by_hand() -> None:
    # |4.1 - 2.3| / sqrt(0.16 + 0.09) = 1.8 / 0.5
    mixture = TwoGaussians(mean_low=2.3, mean_high=4.1, var_low=0.16, var_high=0.09, weight_low=0.1)
    assert bimodal_separation_index(mixture) == pytest.approx(3.6, rel=1e-12)


@given(low=FINITE, high=FINITE, var_low=VARIANCE, var_high=VARIANCE, shift=FINITE, scale=VARIANCE)
def test_bsi_is_unmoved_by_shift_and_scale(
    low: float, high: float, var_low: float, var_high: float, shift: float, scale: float
) -> None:
    low, high = min(low, high), max(low, high)

    def index(shift: float, scale: float) -> float:
        return bimodal_separation_index(
            TwoGaussians(
                mean_low=low * scale + shift,
                mean_high=high * scale + shift,
                var_low=var_low * scale**2,
                var_high=var_high * scale**2,
                weight_low=0.3,
            )
        )

    assert index(shift, scale) == pytest.approx(index(0, 1), rel=1e-6, abs=1e-6)


def test_equal_components_without_spread_have_no_separation() -> None:
    same = TwoGaussians(mean_low=1, mean_high=1, var_low=0, var_high=0, weight_low=0.5)
    assert bimodal_separation_index(same) == 0


def test_different_means_without_spread_have_no_index() -> None:
    points = TwoGaussians(mean_low=1, mean_high=2, var_low=0, var_high=0, weight_low=0.5)
    with pytest.raises(ValueError, match="have no BSI"):
        bimodal_separation_index(points)


def test_only_bimodal_layers_are_sensitive(rng: np.random.Generator) -> None:
    entropy_NL = rng.normal(3.5, 0.2, (600, 4))
    entropy_NL[:60, 2] = rng.normal(2.0, 0.2, 60)
    seen: list[int] = []
    profiles = profile_layers(entropy_NL, 2.0, on_layer=seen.append)
    assert [profile.layer for profile in profiles if profile.is_sensitive] == [2]
    assert profiles[2].is_low_minority
    assert profiles[2].bsi > 4
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_sensitive_though_its_likeliest_split_is_far_apart(seed: int) -> None:
    entropy_NL = np.random.default_rng(seed).normal(3.5, 0.2, (1000, 2))
    assert not any(profile.is_sensitive for profile in profile_layers(entropy_NL, 2.0))


def test_constant_and_empty_layers_are_not_sensitive_even_at_threshold_zero() -> None:
    entropy_NL = np.stack([np.full(30, 2.0), np.full(30, np.nan)], axis=1)
    constant, empty = profile_layers(entropy_NL, 0.0)
    assert (constant.bsi, constant.is_sensitive, constant.num_values) == (0.0, False, 30)
    assert (empty.mixture, empty.is_sensitive, empty.num_values) == (None, False, 0)
    assert empty.to_json()["mixture"] is None


def mixture_of(distance: float, var_low: float, var_high: float, weight: float) -> TwoGaussians:
    return TwoGaussians(
        mean_low=0, mean_high=distance, var_low=var_low, var_high=var_high, weight_low=weight
    )


def test_the_rule_of_the_reference_code_by_hand() -> None:
    rule = LayerRule(name="reference-code")
    # Deviations 0.5 and 1: the means must be more than 3 apart.
    assert not rule.selects(mixture_of(3.0, 0.25, 1.0, 0.1), 100)
    assert rule.selects(mixture_of(3.01, 0.25, 1.0, 0.1), 100)
    # Eq. 7 asks for 2 * sqrt(1.25) = 2.24 only.
    assert LayerRule().selects(mixture_of(2.25, 0.25, 1.0, 0.1), 100)
    assert "twice the sum" in str(rule)


@given(distance=st.floats(0, 20), var_low=VARIANCE, var_high=VARIANCE)
def test_the_rule_of_the_reference_code_is_never_laxer(
    distance: float, var_low: float, var_high: float
) -> None:
    mixture = mixture_of(distance, var_low, var_high, 0.1)
    if LayerRule(name="reference-code").selects(mixture, 100):
        assert LayerRule().selects(mixture, 100)


def test_only_a_guarded_rule_asks_for_two_modes_and_a_low_minority() -> None:
    far = mixture_of(5.0, 1.0, 1.0, 0.9)
    assert LayerRule(is_guarded=False).selects(far, -20)
    assert not LayerRule().selects(far, -20)
    assert LayerRule().is_separated(far, 20)
    assert not LayerRule().selects(far, 20), "the low component is the majority"
    assert not LayerRule(is_guarded=False).selects(None, 0)


def test_aggregation_is_the_mean_over_the_sensitive_layers() -> None:
    entropy_NL = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 2.0]])
    aggregated = aggregate_entropy(entropy_NL, [1, 2])
    assert aggregated[0] == 3.0
    assert np.isnan(aggregated[1]), "a mean over fewer layers would not compare"
    with pytest.raises(ValueError, match="over no layer"):
        aggregate_entropy(entropy_NL, [])
