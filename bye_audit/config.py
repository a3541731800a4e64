"""Settings of each stage, with the paper's defaults; every fault is found at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from bye_audit.errors import ConfigError

DEFAULT_DETECTOR = "consensus"
"""Who decides unless another is named; docs/detection.md has the measurements behind it."""

QUANTIZATIONS = ("none", "8bit", "4bit")
PURIFIER_NAMES = ("classical", "diffusion")
LayerRuleName = Literal["paper", "reference-code"]
EntropyName = Literal["renormalised", "literal"]


OUTPUT_FORMATS = ("source", "parquet", "jsonl", "llava", "webdataset", "trl")
"""What kept samples can be written as; all but ``source`` get a folder of their name."""
DEFAULT_OUTPUTS = ("source", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How the provisional adapter is trained (paper, appendix A.2)."""

    epochs: float = 3.0
    """Passes over the data."""
    learning_rate: float = 2e-4
    """Peak rate of AdamW, falling linearly to zero."""
    batch_size: int = 16
    """Samples an optimiser step, over all devices."""
    micro_batch_size: int | None = None
    """Samples a forward pass; the rest is accumulated. None: the whole batch."""
    quantization: str = "none"
    """Bits of the frozen decoder's weights: none, 8bit or 4bit."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them. None: on a GPU, where memory is short."""
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    warmup_ratio: float = 0.03
    train_projector: bool = True
    """Train the projector between vision tower and decoder whole, as LLaVA does."""
    max_length: int = 2048
    """Longest tokenised conversation; longer ones are left out of training and counted."""
    seed: int = 0
    checkpoint_seconds: float = 600.0
    """Least time between two checkpoints."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        _check(
            {
                "--epochs must be above 0": self.epochs > 0,
                "--learning-rate must be above 0": self.learning_rate > 0,
                "--batch-size must be at least 1": self.batch_size >= 1,
                "--micro-batch-size must divide --batch-size": self.micro_batch_size is None
                or (self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size == 0),
                f"--quantize must be one of {', '.join(QUANTIZATIONS)}": self.quantization
                in QUANTIZATIONS,
                "--lora-rank must be at least 1": self.lora_rank >= 1,
                "--lora-alpha must be at least 1": self.lora_alpha >= 1,
                "--warmup-ratio must be in [0, 1)": 0 <= self.warmup_ratio < 1,
                "--max-length must be at least 16": self.max_length >= 16,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """How samples are scored."""

    layers: tuple[int, ...] | None = None
    """Decoder layers to read; the pass ends at the deepest unless likelihoods are wanted too. None:
    all."""
    device: str | None = None
    """Where to run, as torch names it; ``auto``: spread over all GPUs and the CPU. None: the first
    GPU, else the CPU."""
    batch_tokens: int | None = None
    """Most tokens a forward pass; a longer prompt goes alone. None: 2,048 on CPU, tried on GPU."""
    reuse_prefix: bool = True
    """Compute an image once for all its questions, where a comparison shows that this is exact."""
    num_workers: int | None = None
    """Processes that decode and encode ahead of the model. None: as the cores allow."""
    turns: Literal["first", "all"] = "first"
    """Whether later answers of a conversation are scored too, into ``turn_scores``."""
    check: bool = False
    """Hold a few samples against eager attention first, and refuse if they differ."""
    plausibility: bool = True
    """Also store the log-likelihood of each answer with and without the adapter."""
    commit_seconds: float = 60.0
    """Least time between two commits: at most this much work is lost in a crash."""
    retry_errors: bool = False
    """Score samples again whose last attempt failed."""
    engine: Literal["local", "ray"] = "local"
    """One model in this process, or one in each worker of Ray (needs ``bye-audit[ray]``)."""
    ray_workers: int | None = None
    """Models at work at once. None: one for each GPU, or for each core where there is none."""
    gpus_per_worker: float | None = None
    """GPUs that Ray keeps for each worker; workers share one if below 1. None: 1, but 0 if there is
    neither a GPU here nor an address."""
    ray_address: str | None = None
    """A running cluster, as HOST:PORT or ``auto``. None: a Ray of its own on this machine."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot score."""
        _check(
            {
                "--layers must name at least one layer, none below 0": self.layers is None
                or (len(self.layers) > 0 and min(self.layers) >= 0),
                "--turn must be first or all": self.turns in ("first", "all"),
                "--batch-tokens must be at least 1": self.batch_tokens is None
                or self.batch_tokens >= 1,
                "--workers must be at least 0": self.num_workers is None or self.num_workers >= 0,
                "--commit-seconds must be above 0": self.commit_seconds > 0,
                "--check, --device and --workers are for --engine local": self.engine == "local"
                or (self.check, self.device, self.num_workers) == (False, None, None),
                "--engine must be local or ray": self.engine in ("local", "ray"),
                "--ray-workers must be at least 1": self.ray_workers is None
                or self.ray_workers >= 1,
                "--gpus-per-worker must be at least 0": self.gpus_per_worker is None
                or self.gpus_per_worker >= 0,
                "--ray-workers, --gpus-per-worker and --ray-address need --engine ray": self.engine
                == "ray"
                or (self.ray_workers, self.gpus_per_worker, self.ray_address) == (None, None, None),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TcapConfig:
    """How the detector `tcap` reads the attention of single heads.

    The published description leaves most of these open; docs/detectors.md says how each was chosen.
    """

    statistics: tuple[str, ...] = ("system_mass", "image_mass", "text_mass")
    """What is profiled of each head: shares of its attention on spans of the prompt, and
    ``image_entropy``. A head that several set apart votes by the best separated."""
    mass_scale: Literal["arcsine", "linear"] = "arcsine"
    """Scale on which shares of attention are compared; linear is the published one."""
    last_layers: int | None = None
    """Decoder layers, from the last, whose heads may vote. None: the deeper half."""
    max_components: int = 5
    """Most Gaussians that a head's values are described by."""
    criterion: Literal["aic", "bic"] = "aic"
    """What chooses their number."""
    min_share: float = 0.002
    """Least share of the samples that a group may have."""
    max_overlap: float = 0.157
    """Most area that the densities of both groups may have in common: that of BSI 2."""
    min_shift: float = 0.02
    """Least distance of the groups' mean shares of attention: less is rounding, not allocation."""
    vote_threshold: float = 0.5
    """A head votes for a sample if its chance to be of the minority is above this (tau)."""
    num_heads: int = 16
    """Most heads that vote, the best separated first (H)."""
    min_heads: int = 3
    """Fewest heads that must set the same samples apart; errors of fewer cannot be estimated."""
    min_kappa: float = 0.4
    """Least agreement beyond chance (Cohen's kappa) of two heads that vote together."""
    agree_with: Literal["plausibility"] | None = None
    """A second witness that must agree. Heads that it agrees with go first, one of them is enough,
    and without its agreement nothing is removed. None, or where answers have no likelihoods: the
    heads decide alone."""
    min_witness_agreement: float = 0.6
    """Least agreement beyond chance with the second witness: Cohen's kappa for a head to be chosen
    for it, and the excess share of a group that the witness suspects too for its removal."""

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        known = {"image_entropy", "system_mass", "image_mass", "text_mass"}
        _check(
            {
                f"tcap: statistics must be some of {', '.join(sorted(known))}": bool(
                    self.statistics
                )
                and set(self.statistics) <= known,
                "tcap: mass_scale must be arcsine or linear": self.mass_scale
                in ("arcsine", "linear"),
                "tcap: last_layers must be at least 1": self.last_layers is None
                or self.last_layers >= 1,
                "tcap: max_components must be at least 2": self.max_components >= 2,
                "tcap: criterion must be aic or bic": self.criterion in ("aic", "bic"),
                "tcap: min_share must be in [0, 0.5)": 0 <= self.min_share < 0.5,
                "tcap: vote_threshold must be in (0, 1)": 0 < self.vote_threshold < 1,
                "tcap: num_heads must be in [min_heads, 19]": self.min_heads
                <= self.num_heads
                <= 19,
                "tcap: min_heads must be at least 1": self.min_heads >= 1,
                "tcap: agree_with must be plausibility or None": self.agree_with
                in ("plausibility", None),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectConfig:
    """How scores become suspicion (paper, section 4.2 and 4.3, with our guards)."""

    bsi_threshold: float = 2.0
    """Least Bimodal Separation Index of a sensitive layer (tau_bsi)."""
    layer_rule: LayerRuleName = "paper"
    """``paper``: Eq. 7 against the threshold; ``reference-code``: means further apart than twice
    the sum of the deviations, as the paper's released code has it."""
    layers: Literal["sensitive", "all"] = "sensitive"
    """Layers whose entropies are averaged; ``all`` is the paper's ablation without BSI."""
    clustering: Literal["gmm", "kmeans", "threshold"] = "gmm"
    """How samples are split by their score; the last two are the paper's baselines (Table 7)."""
    entropy_threshold: float | str = 4.5
    """For ``threshold``: entropy below which a sample is suspected, in nats or, with a percent
    sign, as a share of the largest possible: 4.5 nats are 70.8% of log 576."""
    entropy: EntropyName = "renormalised"
    """``renormalised`` over the image tokens, as the released code does, or Eq. 5 ``literal``."""
    guards: bool = True
    """Refuse decisions that the paper would take but that clean data may cause."""
    max_removed_share: float = 0.4
    """Largest share of the scored samples that may be removed; above it nothing is."""
    min_samples: int = 20
    """Fewest scored samples a mixture is fitted to."""
    resamples: int = 100
    """Bootstrap samples that tell how stable the answer is."""
    drop_share: float = 0.2
    """Share that the baseline ``random-drop`` removes."""
    seed: int = 0
    tcap: TcapConfig = field(default_factory=TcapConfig)
    """Settings of the detector of that name."""

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        _check(
            {
                "--bsi-threshold must be at least 0": self.bsi_threshold >= 0,
                "--max-removed-share must be in (0, 0.5]": 0 < self.max_removed_share <= 0.5,
                "--min-samples must be at least 4": self.min_samples >= 4,
                "--layer-rule must be paper or reference-code": self.layer_rule
                in get_args(LayerRuleName),
                "--layers must be sensitive or all": self.layers in ("sensitive", "all"),
                "--clustering must be gmm, kmeans or threshold": self.clustering
                in ("gmm", "kmeans", "threshold"),
                "--entropy-threshold must be above 0, in nats or with a percent sign": _is_entropy(
                    self.entropy_threshold
                ),
                "--entropy must be renormalised or literal": self.entropy in get_args(EntropyName),
                "--resamples must be at least 20": self.resamples >= 20,
                "--drop-share must be in (0, 1)": 0 < self.drop_share < 1,
            }
        )

    @property
    def is_threshold_a_share(self) -> bool:
        """Whether the entropy threshold is a share of the largest entropy possible."""
        return isinstance(self.entropy_threshold, str) and self.entropy_threshold.endswith("%")

    @property
    def threshold_value(self) -> float:
        """Entropy threshold in nats, or as a share in (0, 1]."""
        text = str(self.entropy_threshold)
        return float(text.removesuffix("%")) / (100 if self.is_threshold_a_share else 1)


def _is_entropy(threshold: float | str) -> bool:
    text = str(threshold)
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return False
    return 0 < value <= 100 if text.endswith("%") else 0 < value < math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmConfig:
    """How hard suspicions are put to the test."""

    representatives: int = 4
    """Suspects of a group whose triggers are looked for."""
    recipients: int = 64
    """Unsuspicious samples that what is found is tried on."""
    min_chance: float = 0.25
    """Chance of carrying the answer over that a trigger has at the least."""
    confidence: float = 0.99
    """Chance that this bound holds, over all groups together."""
    max_groups: int = 8
    """Groups of suspects that are looked into."""
    min_group: int = 3
    """Fewest suspects with one kind of answer that are a group."""
    max_suspects: int = 20_000
    """Most suspects that are looked at, the most suspicious first."""
    probes: int = 32
    """Samples that are questioned where no detector suspects any: those that come nearest to it."""
    batch_size: int = 32
    """Questions a forward pass."""
    max_share: float = 0.1
    """Most questions to the models, as a share of the passes that scoring took, as long as nothing
    is confirmed."""
    search: bool = True
    """Whether samples whose image looks as if it held a confirmed trigger are asked as well."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that confirm nothing."""
        _check(
            {
                "--representatives must be at least 1": self.representatives >= 1,
                "--recipients must be at least 16": self.recipients >= 16,
                "--min-chance must be in (0, 1)": 0 < self.min_chance < 1,
                "--confidence must be in (0, 1)": 0 < self.confidence < 1,
                "--max-groups must be at least 1": self.max_groups >= 1,
                "--min-group must be at least 2": self.min_group >= 2,
                "--probes must be at least 0": self.probes >= 0,
                "--max-share must be above 0": self.max_share > 0,
                "--batch-size must be at least 1": self.batch_size >= 1,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifyConfig:
    """How images are purified, and how the model is asked about them."""

    purifier: str = "classical"
    """``classical`` needs no model; ``diffusion`` needs one, and ``bye-audit[zip]``."""
    purifier_model: str | None = None
    """Folder of the diffusion model, as diffusers saves it."""
    device: str | None = None
    """Where model and purifier run, as torch names it. None: the first GPU, else the CPU."""
    batch_tokens: int | None = None
    """Most tokens a forward pass; a longer prompt goes alone. None: 2,048 on CPU, tried on GPU."""
    commit_seconds: float = 60.0
    """Least time between two commits: at most this much work is lost in a crash."""

    def __post_init__(self) -> None:
        """Refuse settings that purify nothing."""
        _check(
            {
                f"--purifier must be one of {', '.join(PURIFIER_NAMES)}": self.purifier
                in PURIFIER_NAMES,
                "--purifier diffusion and --purifier-model need each other": (
                    self.purifier == "diffusion"
                )
                == (self.purifier_model is not None),
                "--batch-tokens must be at least 1": self.batch_tokens is None
                or self.batch_tokens >= 1,
                "--commit-seconds must be above 0": self.commit_seconds > 0,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryConfig:
    """Which known poison is planted in copies of the data, and what counts as seen."""

    attacks: tuple[str, ...]
    """Names in ``bye_audit.poison.attacks.ATTACKS``."""
    rates: tuple[float, ...]
    """Shares of the samples that can carry poison; each rate with each attack is one training."""
    relative_size: float = 1 / 16
    """Side of a patch as a share of the image's shorter side."""
    seed: int = 0
    """Of what is held out, chosen and planted."""
    min_recall: float = 0.5
    """Least share of the planted samples that must be found for the poison to count as seen."""
    held_out_share: float = 0.05
    """Share of the samples that is kept out of the copies, to try the trigger on."""
    max_held_out: int = 200

    def __post_init__(self) -> None:
        """Refuse settings that plant nothing or measure nothing."""
        _check(
            {
                "--attack must name at least one attack": len(self.attacks) > 0,
                "--rate must give at least one rate": len(self.rates) > 0,
                "--rate must be above 0 and at most 0.5, where poison is no minority any more": all(
                    0 < rate <= 0.5 for rate in self.rates
                ),
                "--relative-size must be above 0 and at most 1": 0 < self.relative_size <= 1,
                "--seed must be at least 0": self.seed >= 0,
                "--min-recall must be above 0 and at most 1": 0 < self.min_recall <= 1,
                "held_out_share must be above 0 and below 1": 0 < self.held_out_share < 1,
                "max_held_out must be at least 1": self.max_held_out >= 1,
            }
        )


def _check(rules: Mapping[str, bool]) -> None:
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ConfigError("; ".join(broken) + ".", hint="See the command's --help for its ranges.")
