"""What a detector is given, what it answers and what it must tell its readers.

Shapes: N = samples, B = samples of a batch, L = decoder layers, H = heads of a layer.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig, EntropyName
from bye_audit.core.bsi import LayerProfile
from bye_audit.core.confounders import Strata
from bye_audit.core.entropy import literal_entropy, normalized_entropy
from bye_audit.core.mixture import TwoGaussians
from bye_audit.errors import StageNotRunError
from bye_audit.schema import Decision, Reason

FloatArray = NDArray[np.float64]
OnLayer = Callable[[int], None]


HEAD_STATISTICS = ("image_entropy", "system_mass", "image_mass", "text_mass")
"""What ``score`` keeps of every head: entropy in nats over the image tokens, and the shares of
attention on the spans of the prompt, in [0, 1]."""


class HeadScores(Protocol):
    """Statistics of every head, a batch of samples at a time: all at once may not fit in memory."""

    @property
    def num_layers(self) -> int:
        """Decoder layers L."""
        ...

    @property
    def num_heads(self) -> int:
        """Heads H of a layer."""
        ...

    def batches(
        self, names: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.integer], dict[str, NDArray[np.float32]]]]:
        """Read some of :data:`HEAD_STATISTICS` of every sample, each sample once.

        Parameters
        ----------
        names
            Statistics to read.

        Yields
        ------
        tuple
            Rows of the evidence, shape (B,), and each statistic's values, shape (B, L, H), NaN
            where a head has none.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifiedAnswers:
    """What ``purify`` measured: answers to the image as it is, and to the purified image.

    Parameters
    ----------
    logp_N, purified_logp_N
        Log-likelihood of the first token of the sample's own answer under the provisional model,
        in nats, before and after.
    base_logp_N, purified_base_logp_N
        The same under its base model; NaN for all where there is no base to ask.
    entropy_shift_N
        What purifying adds to the attention entropy, in nats, mean over layers.
    """

    logp_N: NDArray[np.floating]
    purified_logp_N: NDArray[np.floating]
    base_logp_N: NDArray[np.floating]
    purified_base_logp_N: NDArray[np.floating]
    entropy_shift_N: NDArray[np.floating]

    def take(self, rows: NDArray[np.integer]) -> PurifiedAnswers:
        """Give those of some samples."""
        return PurifiedAnswers(
            **{item.name: getattr(self, item.name)[rows] for item in fields(self)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What ``score`` measured of the scored samples; NaN stands for a value that does not exist.

    Parameters
    ----------
    entropy_NL
        Attention entropies in nats, of attention renormalised over the image tokens.
    image_mass_NL
        Share of the attention on the image tokens, in [0, 1]. None where it was not read.
    num_image_tokens_N
        Image tokens T of each sample; None: the same for all.
    answer_logp_N, answer_logp_base_N
        Mean log-likelihood of the sample's own answer, in nats a token, under the provisional model
        and under its base model. None where they were not computed.
    heads
        Statistics of every head; None where there are none.
    intervention_N
        What ``confirm`` found out, values of :class:`bye_audit.schema.Intervention`, empty for
        samples that were not asked; None where it was not run.
    purified
        What ``purify`` measured; None where it was not run on all samples.
    strata
        What else sets the samples apart, by name; empty where nothing is known.
    """

    entropy_NL: NDArray[np.floating]
    image_mass_NL: NDArray[np.floating] | None = None
    num_image_tokens_N: NDArray[np.integer] | None = None
    answer_logp_N: NDArray[np.floating] | None = None
    answer_logp_base_N: NDArray[np.floating] | None = None
    heads: HeadScores | None = None
    intervention_N: NDArray[np.str_] | None = None
    purified: PurifiedAnswers | None = None
    strata: Mapping[str, Strata] = field(default_factory=dict)

    @property
    def has_varying_tokens(self) -> bool:
        """Whether samples differ in their number of image tokens."""
        tokens = self.num_image_tokens_N
        return tokens is not None and np.unique(tokens).size > 1

    def nats(self, kind: EntropyName = "renormalised") -> FloatArray:
        """Entropies of the renormalised attention, or of the attention as it is."""
        entropy_NL = np.asarray(self.entropy_NL, dtype=np.float64)
        if kind == "renormalised":
            return entropy_NL
        if self.image_mass_NL is None:
            raise StageNotRunError(
                "Eq. 5 on attention as it is needs the attention's mass on the image tokens, which "
                "was not stored.",
                hint="Run `bye-audit score AUDIT --restart`, or use `--entropy renormalised`.",
            )
        return literal_entropy(entropy_NL, self.image_mass_NL)

    def shares(self, kind: EntropyName = "renormalised") -> FloatArray:
        """Entropies as shares of log T."""
        if self.num_image_tokens_N is None:
            raise StageNotRunError(
                "An entropy threshold in percent needs the number of image tokens.",
                hint="Give the threshold in nats.",
            )
        return normalized_entropy(self.nats(kind), self.num_image_tokens_N)

    def comparable_entropy(self, kind: EntropyName = "renormalised") -> FloatArray:
        """Entropies that compare over samples: nats, or shares of log T where T varies."""
        return self.shares(kind) if self.has_varying_tokens else self.nats(kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """A detector's answer.

    Parameters
    ----------
    detector
        Its name in :data:`DETECTORS`.
    decision
        Of the dataset as a whole.
    explanation
        The decision in plain words, with its numbers.
    suspicion_N
        Chance of belonging to the suspicious component, in [0, 1], **higher is worse**; NaN where
        the sample could not be evaluated or no mixture was fitted.
    is_suspicious_N
        Samples to remove; all False unless the decision is suspected poison.
    is_evaluated_N
        Samples that have every value this detector needs.
    score_N
        What the mixture was fitted to: aggregated entropy (lower is worse) or likelihood gain
        (higher is worse); NaN where there is none.
    layers
        Profile of each layer; empty for detectors that look at no layer.
    averaged_layers
        Layers that the score is the mean of; empty where there is no such score.
    mixture
        Fitted to ``score_N``; None if the detector did not come so far.
    cut
        Score at which both components are equally likely, between their means.
    statistics
        Numbers behind the decision, as plain JSON values.
    witnesses_N
        For detectors that hear several witnesses: names of those that suspect each sample, joined
        by ``+``; empty where none does.
    """

    detector: str
    decision: Decision
    explanation: str
    suspicion_N: FloatArray
    is_suspicious_N: NDArray[np.bool_]
    is_evaluated_N: NDArray[np.bool_]
    score_N: FloatArray
    layers: list[LayerProfile] = field(default_factory=list)
    averaged_layers: tuple[int, ...] = ()
    mixture: TwoGaussians | None = None
    cut: float | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    witnesses_N: NDArray[np.str_] | None = None

    @property
    def sensitive_layers(self) -> tuple[int, ...]:
        """Layers that the rule selected, in order; empty is a finding."""
        return tuple(profile.layer for profile in self.layers if profile.is_sensitive)


class DetectFunction(Protocol):
    """Evidence in, answer out."""

    def __call__(
        self, evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
    ) -> Detection:
        """Judge the evidence."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A registered rule, with what a reader of its verdicts must know.

    Parameters
    ----------
    name
        As given to ``--detector``.
    detect
        The rule.
    reason
        Why a sample that it suspects is removed.
    score_label
        What ``Detection.score_N`` measures, with its unit.
    is_low_suspicious
        Whether low scores are the suspicious ones.
    limits
        What it cannot see, one sentence each.
    role
        A *witness* has evidence of its own in what ``score`` stores, a *judge* hears witnesses, and
        a *baseline* only serves for comparison and says nothing about the data. A *specialist* is
        a witness whose evidence costs another pass over the data: it is heard where it is named,
        and nothing waits for it.
    """

    name: str
    detect: DetectFunction
    reason: Reason
    score_label: str
    is_low_suspicious: bool
    limits: tuple[str, ...]
    role: Literal["witness", "specialist", "judge", "baseline"] = "witness"
