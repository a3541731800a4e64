"""One pass over the heads: scales that can be undone, and counts of every sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.heads import NUM_TOKENS, SHAPE, make_evidence, make_masses

from bye_audit.core.detection import Evidence
from bye_audit.core.head_values import (
    HeadScale,
    HeldHeadScores,
    make_head_scale,
    read_head_values,
)

MASSES = ("system_mass", "image_mass", "text_mass")


class ShuffledHeads:
    """Batches of odd sizes in no order, without the last two samples."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self._values = values
        self.num_layers, self.num_heads = SHAPE

    def batches(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        order = np.random.default_rng(3).permutation(len(self._values[names[0]]) - 2)
        for rows in np.split(order, [7, 50, 51]):
            yield rows, {name: self._values[name][rows].astype(np.float32) for name in names}


@given(mass=st.floats(0, 1), name=st.sampled_from(MASSES))
@pytest.mark.parametrize("mass_scale", ["arcsine", "linear"])
def test_scales_can_be_undone(mass_scale: str, mass: float, name: str) -> None:
    scale = HeadScale(mass_scale=mass_scale, log_tokens_N=np.ones(1))  # type: ignore[arg-type]
    scaled = scale.apply(name, np.array([mass]), np.array([0]))
    assert 0 <= scaled[0] <= 1
    assert scale.restore(name, scaled)[0] == pytest.approx(mass, abs=1e-9)


def test_entropies_are_shares_of_the_largest_possible() -> None:
    evidence = Evidence(
        entropy_NL=np.ones((3, 1)), num_image_tokens_N=np.array([16, 256, 1]), heads=None
    )
    scale = make_head_scale(evidence, "arcsine")
    entropy = np.log([[[4.0]], [[4.0]], [[1.0]]])
    scaled = scale.apply("image_entropy", entropy, np.array([0, 1, 2]))
    np.testing.assert_allclose(scaled[:2].ravel(), [0.5, 0.25])
    assert np.isnan(scaled[2, 0, 0]), "one token has no entropy to speak of"


def test_tokens_not_known_are_the_same_for_all() -> None:
    scale = make_head_scale(Evidence(entropy_NL=np.array([[1.0, 4.0], [np.nan, 2.0]])), "arcsine")
    assert scale.apply("image_entropy", np.array([2.0]), np.array([1]))[0] == 0.5
    nothing = make_head_scale(Evidence(entropy_NL=np.empty((2, 0))), "arcsine")
    assert np.isfinite(nothing.log_tokens_N).all()


def test_order_and_size_of_batches_do_not_matter() -> None:
    values = make_masses(300)
    evidence = make_evidence(values)
    scale = make_head_scale(evidence, "arcsine")
    assert evidence.heads is not None
    found = [
        read_head_values(
            heads, scale, statistics=MASSES, layers=(1, 3), num_samples=300, max_whole_samples=100
        )
        for heads in (evidence.heads, ShuffledHeads(values))
    ]
    straight, shuffled = found
    assert straight.has_values_N.all()
    assert shuffled.has_values_N.sum() == 298
    np.testing.assert_array_equal(straight.rows_R, shuffled.rows_R)
    is_read = shuffled.has_values_N[straight.rows_R]
    np.testing.assert_array_equal(straight.values_RSLH[is_read], shuffled.values_RSLH[is_read])
    assert np.isnan(shuffled.values_RSLH[~is_read]).all()
    assert straight.num_heads_with_values == 6
    # Layer 3 is the second of those read; head 2, image.
    counted = straight.histogram.num_values()
    assert (counted == 300).all()
    bins, weights = straight.histogram.values_and_weights(1, 1, 2)
    mean = scale.apply("image_mass", values["image_mass"][:, 3, 2], np.arange(300)).mean()
    assert bins @ weights / 300 == pytest.approx(mean)


def test_samples_kept_whole_are_a_draw_that_the_seed_decides() -> None:
    evidence = make_evidence(make_masses(300))
    scale = make_head_scale(evidence, "arcsine")
    assert evidence.heads is not None
    rows = [
        read_head_values(
            evidence.heads,
            scale,
            statistics=("image_mass",),
            layers=(0,),
            num_samples=300,
            max_whole_samples=50,
            seed=seed,
        ).rows_R
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert len(set(rows[0].tolist())) == 50
    assert (np.diff(rows[0]) > 0).all()


def test_heads_without_values_are_not_counted() -> None:
    values = {name: part.astype(np.float32) for name, part in make_masses(50).items()}
    for part in values.values():
        part[:, 2] = np.nan
    evidence = make_evidence(values)
    found = read_head_values(
        HeldHeadScores(values),
        make_head_scale(evidence, "linear"),
        statistics=MASSES,
        layers=(2, 3),
        num_samples=50,
    )
    assert found.num_heads_with_values == SHAPE[1]
    assert found.has_values_N.all()
    assert NUM_TOKENS == 81
