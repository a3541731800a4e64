"""Settings of each stage, with the paper's defaults; every fault is found at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bye_audit.errors import ConfigError

QUANTIZATIONS = ("none", "8bit", "4bit")


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
class DetectConfig:
    """How scores become suspicion (paper, section 4.2 and 4.3, with our guards)."""

    bsi_threshold: float = 2.0
    """Least Bimodal Separation Index of a sensitive layer (tau_bsi)."""
    max_removed_share: float = 0.4
    """Largest share of the scored samples that may be removed; above it nothing is."""
    min_samples: int = 20
    """Fewest scored samples a mixture is fitted to."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        _check(
            {
                "--bsi-threshold must be at least 0": self.bsi_threshold >= 0,
                "--max-removed-share must be in (0, 0.5]": 0 < self.max_removed_share <= 0.5,
                "--min-samples must be at least 4": self.min_samples >= 4,
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
