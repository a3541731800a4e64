"""Which samples an attack poisons, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bye_audit.errors import ConfigError
from bye_audit.poison.triggers import PatchTrigger

PAPER_TARGET_TEXT = "Backdoor Attack!"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackdoorAttack:
    """A trigger, the answer it is to provoke and the share of samples that teach it.

    Parameters
    ----------
    trigger
        What is stamped on the poisoned images.
    target_text
        The answer every poisoned sample is given.
    poison_rate
        Fraction of the samples to poison, in [0, 1]; the paper's default is 0.1.

    Raises
    ------
    ConfigError
        If the rate is not a fraction.
    """

    trigger: PatchTrigger = field(default_factory=PatchTrigger)
    target_text: str = PAPER_TARGET_TEXT
    poison_rate: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a rate that is no fraction."""
        if not 0 <= self.poison_rate <= 1:
            raise ConfigError(
                f"The poison rate must be in [0, 1], not {self.poison_rate}.",
                hint="0.1 poisons one sample in ten.",
            )

    def choose(self, num_samples: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Mark ``round(poison_rate * num_samples)`` samples, all equally likely, as poisoned."""
        is_poisoned = np.zeros(num_samples, dtype=bool)
        count = round(self.poison_rate * num_samples)
        is_poisoned[rng.choice(num_samples, size=count, replace=False)] = True
        return is_poisoned

    def poison(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, str]:
        """Return the triggered image and the answer it is paired with."""
        return self.trigger.stamp(image, rng), self.target_text
