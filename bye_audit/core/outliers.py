"""The detectors in scikit-learn's form: ``fit_predict`` gives -1 for suspects and 1 for the rest.

Shapes: N = samples, L = features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import aggregate_entropy
from bye_audit.core.detectors import (
    Detection,
    Evidence,
    bye_suspicion,
    detect_bye,
    detect_plausibility,
    plausibility_suspicion,
)
from bye_audit.core.mixture import TwoGaussians
from bye_audit.schema import Decision

_FEWEST_SAMPLES = 4


class _MixtureOutlierDetector(OutlierMixin, BaseEstimator):
    """What both detectors share: fit once, then judge rows by the fitted mixture."""

    def __init__(
        self,
        *,
        bsi_threshold: float = 2.0,
        max_removed_share: float = 0.4,
        random_state: int = 0,
    ) -> None:
        self.bsi_threshold = bsi_threshold
        self.max_removed_share = max_removed_share
        self.random_state = random_state

    @abstractmethod
    def _detect(self, X: NDArray[np.float64], config: DetectConfig) -> Detection: ...

    @abstractmethod
    def _suspicion(self, mixture: TwoGaussians, X: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the mixtures and take the decision.

        Parameters
        ----------
        X
            Samples in rows.
        y
            Not used.

        Returns
        -------
        self
            With ``detection_``, ``decision_`` and ``offset_``.
        """
        del y
        samples: NDArray[np.float64] = validate_data(
            self, X, dtype=np.float64, ensure_min_samples=2
        )
        # The smallest bound a config allows; below it nothing can be told apart anyway.
        config = DetectConfig(
            bsi_threshold=self.bsi_threshold,
            max_removed_share=self.max_removed_share,
            min_samples=_FEWEST_SAMPLES,
            seed=self.random_state,
        )
        if len(samples) < _FEWEST_SAMPLES:
            raise ValueError(f"at least {_FEWEST_SAMPLES} samples are needed, got {len(samples)}")
        self.detection_ = self._detect(samples, config)
        self.decision_ = str(self.detection_.decision)
        # Where nothing may be removed, no score is low enough.
        is_removing = self.detection_.decision is Decision.POISON_SUSPECTED
        self.offset_ = 0.5 if is_removing else 0.0
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Chance of not being suspicious, in [0, 1]; **lower is worse**."""
        check_is_fitted(self)
        samples: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        mixture = self.detection_.mixture
        if mixture is None:
            return np.ones(len(samples))
        return 1.0 - self._suspicion(mixture, samples)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score minus ``offset_``: negative for suspects."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """-1 for suspects, 1 for all others."""
        return np.where(self.decision_function(X) < 0, -1, 1)


class ByeOutlierDetector(_MixtureOutlierDetector):
    """The paper's rule on a matrix of attention entropies, one column a decoder layer.

    Parameters
    ----------
    bsi_threshold
        Least Bimodal Separation Index of a sensitive layer.
    max_removed_share
        Largest share of suspects in (0, 0.5]; above it nobody is one.
    random_state
        Seed of the mixture fits.

    Attributes
    ----------
    detection_
        The full answer, see :class:`bye_audit.core.detectors.Detection`.
    decision_
        ``no_evidence``, ``inconclusive`` or ``poison_suspected``.
    offset_
        ``decision_function = score_samples - offset_``.
    """

    def _detect(self, X: NDArray[np.float64], config: DetectConfig) -> Detection:
        return detect_bye(Evidence(entropy_NL=X), config)

    def _suspicion(self, mixture: TwoGaussians, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return bye_suspicion(mixture, aggregate_entropy(X, self.detection_.sensitive_layers))


class PlausibilityOutlierDetector(_MixtureOutlierDetector):
    """The likelihood-gain rule on gains in nats a token; several columns are averaged.

    Parameters
    ----------
    bsi_threshold
        Least separation of the two groups.
    max_removed_share
        Largest share of suspects in (0, 0.5]; above it nobody is one.
    random_state
        Seed of the mixture fits.

    Attributes
    ----------
    detection_
        The full answer, see :class:`bye_audit.core.detectors.Detection`.
    decision_
        ``no_evidence``, ``inconclusive`` or ``poison_suspected``.
    offset_
        ``decision_function = score_samples - offset_``.
    """

    def _detect(self, X: NDArray[np.float64], config: DetectConfig) -> Detection:
        gain_N = X.mean(axis=1)
        evidence = Evidence(
            entropy_NL=np.empty((X.shape[0], 0)),
            answer_logp_N=gain_N,
            answer_logp_base_N=np.zeros_like(gain_N),
        )
        return detect_plausibility(evidence, config)

    def _suspicion(self, mixture: TwoGaussians, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return plausibility_suspicion(mixture, X.mean(axis=1))
