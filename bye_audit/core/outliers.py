"""The detectors in scikit-learn's form: ``fit_predict`` gives -1 for suspects and 1 for the rest.

Shapes: N = samples, L = features.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from bye_audit.config import DetectConfig, LayerRuleName, TcapConfig
from bye_audit.core.bsi import aggregate_entropy
from bye_audit.core.detectors import Detection, Evidence, detect_bye, detect_plausibility
from bye_audit.core.detectors.tcap import fit_tcap
from bye_audit.core.head_values import HeldHeadScores
from bye_audit.core.hearing import hear_panel
from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians
from bye_audit.schema import Decision

FloatArray = NDArray[np.float64]

_FEWEST_SAMPLES = 4
_TIE_BREAK = 1e-6


class _MixtureOutlierDetector(OutlierMixin, BaseEstimator):
    """What both detectors share: fit once, then judge rows by the fitted split."""

    _tail: Literal["low", "high"]

    def __init__(
        self,
        *,
        bsi_threshold: float = 2.0,
        max_removed_share: float = 0.4,
        guards: bool = True,
        resamples: int = 100,
        contamination: float | Literal["auto"] = "auto",
        random_state: int = 0,
    ) -> None:
        self.bsi_threshold = bsi_threshold
        self.max_removed_share = max_removed_share
        self.guards = guards
        self.resamples = resamples
        self.contamination = contamination
        self.random_state = random_state

    @abstractmethod
    def _detect(self, X: FloatArray, config: DetectConfig) -> Detection: ...

    @abstractmethod
    def _values(self, X: FloatArray) -> FloatArray:
        """One number a row: what the mixture is fitted to."""

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
        samples: FloatArray = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if len(samples) < _FEWEST_SAMPLES:
            raise ValueError(f"at least {_FEWEST_SAMPLES} samples are needed, got {len(samples)}")
        if self.contamination != "auto" and not 0 < self.contamination <= 0.5:
            raise ValueError(
                f"contamination must be 'auto' or in (0, 0.5], not {self.contamination}"
            )
        self.detection_ = self._detect(samples, self._config())
        self.decision_ = str(self.detection_.decision)
        self.mixture_ = self.detection_.mixture or self._rank_all(samples)
        if self.contamination != "auto":
            self.offset_ = float(
                np.percentile(self.score_samples(samples), 100 * self.contamination)
            )
        else:
            # Where nothing may be removed, no score is low enough.
            is_removing = self.detection_.decision is Decision.POISON_SUSPECTED
            self.offset_ = 0.0 if is_removing else -np.inf
        return self

    def _config(self, **variants: Any) -> DetectConfig:
        """Put the parameters into a detector's settings."""
        return DetectConfig(
            bsi_threshold=self.bsi_threshold,
            max_removed_share=self.max_removed_share,
            guards=self.guards,
            resamples=self.resamples,
            # The smallest bound a config allows; below it nothing can be told apart anyway.
            min_samples=_FEWEST_SAMPLES,
            seed=self.random_state,
            **variants,
        )

    def _rank_all(self, samples: FloatArray) -> TwoGaussians:
        """Fit a mixture where the detector saw no need: rows are ranked even without suspects."""
        fit = fit_two_gaussians(self._values(samples), seed=self.random_state, tail=self._tail)
        return fit.mixture

    def score_samples(self, X: ArrayLike) -> FloatArray:
        """Log-odds of not being in the suspicious component; **lower is worse**.

        Beyond the clean component's mean they go on growing, whatever the variances are.
        """
        check_is_fitted(self)
        samples: FloatArray = validate_data(self, X, dtype=np.float64, reset=False)
        return self._rank(self._values(samples))

    def _rank(self, values: FloatArray) -> FloatArray:
        """Log-odds of not being a suspect, growing on beyond either mean."""
        mixture = self.mixture_
        if self._tail == "low":
            held = np.minimum(values, mixture.mean_high)
            return mixture.log_odds_high(held) + (values - held)
        held = np.clip(values, mixture.mean_low, mixture.mean_high)
        return -mixture.log_odds_high(held) - (values - held)

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """Score minus ``offset_``: negative for suspects."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """-1 for suspects, 1 for all others."""
        return np.where(self.decision_function(X) < 0, -1, 1)


class ByeOutlierDetector(_MixtureOutlierDetector):
    """The paper's rule on a matrix of attention entropies, one column a decoder layer.

    Where the number of image tokens varies, give entropies divided by its logarithm.

    Parameters
    ----------
    bsi_threshold
        Least Bimodal Separation Index of a sensitive layer.
    layer_rule
        ``paper`` (Eq. 7) or ``reference-code``, which needs no threshold.
    layers
        Which layers are averaged: ``sensitive`` or ``all``.
    clustering
        How the averages are split: ``gmm``, ``kmeans`` or ``threshold``.
    entropy_threshold
        For ``threshold``: the least average that is not suspected, in the unit of X.
    max_removed_share
        Largest share of suspects in (0, 0.5]; above it nobody is one.
    guards
        Whether decisions that clean data may cause are refused, as the paper does not.
    resamples
        Bootstrap samples that tell how stable the suspects are.
    contamination
        ``auto`` for the detector's own decision, which may be that nobody is a suspect; or the
        share of the lowest scores to call suspects, whatever the decision is.
    random_state
        Seed of the mixture fits.

    Attributes
    ----------
    detection_
        The full answer, see :class:`bye_audit.core.detection.Detection`.
    decision_
        ``no_evidence``, ``inconclusive`` or ``poison_suspected``.
    offset_
        ``decision_function = score_samples - offset_``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> entropy_NL = rng.normal(3.5, 0.1, (200, 4))
    >>> entropy_NL[:20, 2] = rng.normal(1.5, 0.1, 20)
    >>> flags = ByeOutlierDetector().fit_predict(entropy_NL)
    >>> int((flags == -1).sum()), int((flags[:20] == -1).sum())
    (20, 20)
    """

    _tail = "low"

    def __init__(
        self,
        *,
        bsi_threshold: float = 2.0,
        layer_rule: LayerRuleName = "paper",
        layers: Literal["sensitive", "all"] = "sensitive",
        clustering: Literal["gmm", "kmeans", "threshold"] = "gmm",
        entropy_threshold: float = 4.5,
        max_removed_share: float = 0.4,
        guards: bool = True,
        resamples: int = 100,
        contamination: float | Literal["auto"] = "auto",
        random_state: int = 0,
    ) -> None:
        super().__init__(
            bsi_threshold=bsi_threshold,
            max_removed_share=max_removed_share,
            guards=guards,
            resamples=resamples,
            contamination=contamination,
            random_state=random_state,
        )
        self.layer_rule = layer_rule
        self.layers = layers
        self.clustering = clustering
        self.entropy_threshold = entropy_threshold

    def _config(self, **variants: Any) -> DetectConfig:
        return super()._config(
            layer_rule=self.layer_rule,
            layers=self.layers,
            clustering=self.clustering,
            entropy_threshold=self.entropy_threshold,
            **variants,
        )

    def _detect(self, X: FloatArray, config: DetectConfig) -> Detection:
        return detect_bye(Evidence(entropy_NL=X), config)

    def _rank(self, values: FloatArray) -> FloatArray:
        if self.clustering != "gmm" and self.detection_.cut is not None:
            return values - self.detection_.cut
        if not self.guards:
            return self.mixture_.log_odds_high(values)
        return super()._rank(values)

    def _values(self, X: FloatArray) -> FloatArray:
        return aggregate_entropy(X, self.detection_.averaged_layers or range(X.shape[1]))


class PlausibilityOutlierDetector(_MixtureOutlierDetector):
    """The likelihood-gain rule on gains in nats a token; several columns are averaged.

    Parameters
    ----------
    bsi_threshold
        Least separation of the two groups.
    max_removed_share
        Largest share of suspects in (0, 0.5]; above it nobody is one.
    guards
        Whether decisions that clean data may cause are refused, as the paper does not.
    resamples
        Bootstrap samples that tell how stable the suspects are.
    contamination
        ``auto`` for the detector's own decision, which may be that nobody is a suspect; or the
        share of the highest gains to call suspects, whatever the decision is.
    random_state
        Seed of the mixture fits.

    Attributes
    ----------
    detection_
        The full answer, see :class:`bye_audit.core.detection.Detection`.
    decision_
        ``no_evidence``, ``inconclusive`` or ``poison_suspected``.
    offset_
        ``decision_function = score_samples - offset_``.
    """

    _tail = "high"

    def _detect(self, X: FloatArray, config: DetectConfig) -> Detection:
        gain_N = self._values(X)
        evidence = Evidence(
            entropy_NL=np.empty((X.shape[0], 0)),
            answer_logp_N=gain_N,
            answer_logp_base_N=np.zeros_like(gain_N),
        )
        return detect_plausibility(evidence, config)

    def _values(self, X: FloatArray) -> FloatArray:
        return np.asarray(X.mean(axis=1))


class TcapOutlierDetector(_MixtureOutlierDetector):
    """The vote of attention heads, on a matrix of shares of attention, one column a head and span.

    Give the heads of the last layers only; a head with several columns has several votes.

    Parameters
    ----------
    scale
        ``arcsine`` or ``linear`` for shares in [0, 1]; ``minmax`` stretches each column's range to
        it first, as published. ``auto``: ``arcsine`` where all values lie in [0, 1], else
        ``minmax``.
    max_components, criterion, max_overlap, min_share, min_shift, min_kappa, vote_threshold
        Which columns may vote, and when they do; see :class:`bye_audit.config.TcapConfig`.
    num_heads, min_heads
        Most and fewest columns that vote.
    max_removed_share, guards, resamples, contamination, random_state
        As for :class:`ByeOutlierDetector`.

    Attributes
    ----------
    detection_, decision_, offset_
        As for :class:`ByeOutlierDetector`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mass_NF = rng.beta(8, 20, (400, 6))
    >>> mass_NF[:40, :4] = rng.beta(60, 4, (40, 4))
    >>> flags = TcapOutlierDetector().fit_predict(mass_NF)
    >>> int((flags == -1).sum()), int((flags[:40] == -1).sum())
    (40, 40)
    """

    _tail = "high"

    def __init__(
        self,
        *,
        scale: Literal["auto", "arcsine", "linear", "minmax"] = "auto",
        max_components: int = 5,
        criterion: Literal["aic", "bic"] = "aic",
        max_overlap: float = 0.157,
        min_share: float = 0.002,
        min_shift: float = 0.02,
        min_kappa: float = 0.4,
        vote_threshold: float = 0.5,
        num_heads: int = 16,
        min_heads: int = 3,
        max_removed_share: float = 0.4,
        guards: bool = True,
        resamples: int = 100,
        contamination: float | Literal["auto"] = "auto",
        random_state: int = 0,
    ) -> None:
        super().__init__(
            max_removed_share=max_removed_share,
            guards=guards,
            resamples=resamples,
            contamination=contamination,
            random_state=random_state,
        )
        self.scale = scale
        self.max_components = max_components
        self.criterion = criterion
        self.max_overlap = max_overlap
        self.min_share = min_share
        self.min_shift = min_shift
        self.min_kappa = min_kappa
        self.vote_threshold = vote_threshold
        self.num_heads = num_heads
        self.min_heads = min_heads

    def _detect(self, X: FloatArray, config: DetectConfig) -> Detection:
        is_share = bool((X >= 0).all() and (X <= 1).all())
        is_stretched = self.scale == "minmax" or (self.scale == "auto" and not is_share)
        self.low_F_ = X.min(axis=0) if is_stretched else np.zeros(X.shape[1])
        range_F = X.max(axis=0) - self.low_F_ if is_stretched else np.ones(X.shape[1])
        self.range_F_ = np.where(range_F > 0, range_F, 1.0)
        self.center_F_ = np.median(X, axis=0)
        spread_F = np.median(np.abs(X - self.center_F_), axis=0)
        self.spread_F_ = np.where(spread_F > 0, spread_F, self.range_F_)
        settings = TcapConfig(
            statistics=("image_mass",),
            mass_scale="linear" if is_stretched or self.scale == "linear" else "arcsine",
            max_components=self.max_components,
            criterion=self.criterion,
            max_overlap=self.max_overlap,
            min_share=self.min_share,
            min_shift=self.min_shift,
            min_kappa=self.min_kappa,
            vote_threshold=self.vote_threshold,
            num_heads=self.num_heads,
            min_heads=self.min_heads,
        )
        self.fit_ = fit_tcap(self._evidence(X), replace(config, tcap=settings))
        return self.fit_.detection

    def _evidence(self, X: FloatArray) -> Evidence:
        mass_NF = np.clip((X - self.low_F_) / self.range_F_, 0.0, 1.0)
        return Evidence(
            entropy_NL=np.empty((len(X), 0)),
            heads=HeldHeadScores({"image_mass": mass_NF[:, None, :]}),
        )

    def _values(self, X: FloatArray) -> FloatArray:
        """Log-odds by the votes, ties broken by how far the heads go; distances without a vote."""
        panel, model = self.fit_.panel, self.fit_.model
        if panel is None or model is None:
            return np.asarray((np.abs(X - self.center_F_) / self.spread_F_).mean(axis=1))
        evidence, scale = self._evidence(X), self.fit_.scale
        hearing = hear_panel(evidence, panel.voters, scale, threshold=self.vote_threshold)
        return hearing.log_odds(model) + _TIE_BREAK * hearing.score_N

    def _rank(self, values: FloatArray) -> FloatArray:
        """Log-odds of not being a suspect."""
        return -values
