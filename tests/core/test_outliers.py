"""The detectors as scikit-learn estimators: its own checks, and agreement with the detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from bye_audit.config import DetectConfig, TcapConfig
from bye_audit.core.detectors import Evidence, detect_bye, detect_tcap
from bye_audit.core.head_values import HeldHeadScores
from bye_audit.core.outliers import (
    ByeOutlierDetector,
    PlausibilityOutlierDetector,
    TcapOutlierDetector,
)


def failed_checks(estimator: Any) -> set[str]:
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40
    return {result["check_name"] for result in results if result["status"] == "failed"}


# With contamination="auto" two of the checks fail by design: they demand suspects in any data.
@pytest.mark.slow
@pytest.mark.parametrize(
    "detector",
    [
        ByeOutlierDetector(contamination=0.1),
        ByeOutlierDetector(contamination=0.1, clustering="kmeans", layers="all", resamples=20),
        ByeOutlierDetector(contamination=0.1, clustering="threshold", guards=False),
        PlausibilityOutlierDetector(contamination=0.1, resamples=20),
        TcapOutlierDetector(contamination=0.1, resamples=20),
    ],
    ids=["bye", "kmeans", "threshold", "plausibility", "tcap"],
)
def test_scikit_learn_accepts(detector: Any) -> None:
    assert failed_checks(detector) == set()


@pytest.mark.parametrize(
    "options",
    [
        {"clustering": "kmeans"},
        {"clustering": "threshold", "entropy_threshold": 2.75},
        {"layers": "all"},
        {"layer_rule": "reference-code"},
        {"guards": False},
        {"guards": False, "clustering": "kmeans", "layers": "all"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_flags_of_every_variant_are_the_detectors(
    rng: np.random.Generator, options: dict[str, Any]
) -> None:
    entropy_NL = collapsed(rng)
    detection = detect_bye(Evidence(entropy_NL=entropy_NL), DetectConfig(**options))
    estimator = ByeOutlierDetector(**options).fit(entropy_NL)
    assert detection.is_suspicious_N.any()
    np.testing.assert_array_equal(estimator.predict(entropy_NL) == -1, detection.is_suspicious_N)


def collapsed(rng: np.random.Generator) -> np.ndarray:
    entropy_NL = rng.normal(3.5, 0.15, (300, 3))
    entropy_NL[:30, 1] = rng.normal(2.0, 0.15, 30)
    return entropy_NL


def test_flags_are_the_detectors(rng: np.random.Generator) -> None:
    entropy_NL = collapsed(rng)
    detection = detect_bye(Evidence(entropy_NL=entropy_NL), DetectConfig())
    estimator = ByeOutlierDetector().fit(entropy_NL)
    np.testing.assert_array_equal(estimator.predict(entropy_NL) == -1, detection.is_suspicious_N)
    assert estimator.decision_ == "poison_suspected"
    new = np.array([[3.5, 2.0, 3.5], [3.5, 3.5, 3.5]])
    assert estimator.predict(new).tolist() == [-1, 1]


def test_nobody_is_a_suspect_in_clean_data_unless_a_share_is_asked_for(
    rng: np.random.Generator,
) -> None:
    entropy_NL = rng.normal(3.5, 0.15, (300, 3))
    assert (ByeOutlierDetector().fit_predict(entropy_NL) == 1).all()
    flags = ByeOutlierDetector(contamination=0.05).fit_predict(entropy_NL)
    assert (flags == -1).sum() == 15
    assert entropy_NL[flags == -1].mean() < entropy_NL[flags == 1].mean()


def test_plausibility_flags_the_high_gains(rng: np.random.Generator) -> None:
    gain_N = np.where(np.arange(200) < 20, 12.0, 0.2) + rng.normal(0, 0.1, 200)
    flags = PlausibilityOutlierDetector().fit_predict(gain_N[:, None])
    np.testing.assert_array_equal(flags == -1, np.arange(200) < 20)


@pytest.mark.parametrize("contamination", [0.0, 0.6, -0.1])
def test_impossible_contamination_is_refused(
    rng: np.random.Generator, contamination: float
) -> None:
    with pytest.raises(ValueError, match="contamination"):
        ByeOutlierDetector(contamination=contamination).fit(collapsed(rng))


def shares(rng: np.random.Generator, num_poisoned: int = 60) -> np.ndarray:
    """Draw attention of six heads, of which four answer to a trigger in the first samples."""
    mass_NF = rng.beta(8, 20, (600, 6))
    mass_NF[:num_poisoned, :4] = rng.beta(60, 5, (num_poisoned, 4))
    return mass_NF


def test_votes_are_the_detectors(rng: np.random.Generator) -> None:
    mass_NF = shares(rng)
    heads = HeldHeadScores({"image_mass": mass_NF[:, None]})
    config = DetectConfig(tcap=TcapConfig(statistics=("image_mass",)))
    detection = detect_tcap(Evidence(entropy_NL=np.empty((600, 0)), heads=heads), config)
    estimator = TcapOutlierDetector().fit(mass_NF)
    assert estimator.decision_ == "poison_suspected"
    np.testing.assert_array_equal(estimator.predict(mass_NF) == -1, detection.is_suspicious_N)
    np.testing.assert_array_equal(estimator.predict(mass_NF) == -1, np.arange(600) < 60)
    new = np.array([[0.95] * 4 + [0.3] * 2, [0.3] * 6])
    assert estimator.predict(new).tolist() == [-1, 1]


def test_columns_in_any_unit_are_stretched_first(rng: np.random.Generator) -> None:
    mass_NF = shares(rng)
    flags = TcapOutlierDetector().fit_predict(mass_NF * 50 - 7)
    np.testing.assert_array_equal(flags == -1, np.arange(600) < 60)
    linear = TcapOutlierDetector(scale="linear").fit_predict(mass_NF)
    np.testing.assert_array_equal(linear, flags)


def test_heads_of_clean_data_rank_samples_only_if_asked(rng: np.random.Generator) -> None:
    mass_NF = shares(rng, 0)
    assert (TcapOutlierDetector().fit_predict(mass_NF) == 1).all()
    flags = TcapOutlierDetector(contamination=0.05).fit_predict(mass_NF)
    assert (flags == -1).sum() == 30
