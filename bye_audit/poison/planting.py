"""Which samples an attack poisons, and what it makes of them.

An `Attack` is a definition; `Attack.plan` applies it to one dataset's answers and gives a
`Planting`, which knows the fate of every row. What happens to a row depends on the seed and the
row's number alone, so that rows may be planted in any order, in parts or as a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bye_audit.core.metrics import Proportion, wilson_proportion
from bye_audit.errors import ConfigError
from bye_audit.poison.targets import PAPER_TARGET, Target
from bye_audit.poison.triggers import ImageTrigger, TextTrigger

# Streams of random numbers that no two purposes share.
_CHOICE, _TRAINING, _TEST = 0xBAD, 0x57A3, 0x7E57

NO_BACKDOOR = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Backdoor:
    """A trigger, in the image or the question or in both, and what it is to provoke.

    Parameters
    ----------
    image_trigger, text_trigger
        Where both are given, both are needed: a dual key.
    target
        What poisoned samples answer.

    Raises
    ------
    ConfigError
        If there is no trigger.
    """

    image_trigger: ImageTrigger | None = None
    text_trigger: TextTrigger | None = None
    target: Target = PAPER_TARGET

    def __post_init__(self) -> None:
        """Refuse a backdoor without a key."""
        if self.image_trigger is None and self.text_trigger is None:
            raise ConfigError(
                "A backdoor needs a trigger, in the image or in the text.",
                hint="image_trigger=PatchTrigger() is the paper's.",
            )

    @property
    def is_dual_key(self) -> bool:
        """Whether image and question must both carry their trigger."""
        return self.image_trigger is not None and self.text_trigger is not None

    def trigger(
        self, image: Image.Image, question: str, rng: np.random.Generator
    ) -> tuple[Image.Image, str]:
        """Return the image and the question with every key of this backdoor."""
        if self.image_trigger is not None:
            image = self.image_trigger.stamp(image, rng)
        if self.text_trigger is not None:
            question = self.text_trigger.insert(question, rng)
        return image, question

    def half(self, key: int) -> Backdoor:
        """Return a dual key's one half: 0 is the image's, 1 the question's."""
        return replace(self, text_trigger=None) if key == 0 else replace(self, image_trigger=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """One or more backdoors and the share of samples that teach them.

    Parameters
    ----------
    backdoors
        The poisoned samples are divided evenly among them.
    poison_rate
        Fraction of the samples to poison, in [0, 1]; the paper's default is 0.1.
    decoys_per_poison
        For dual keys: samples with one key only that keep their clean answer, so that the model
        learns to want both; half have the image's key, half the question's. They are no poison
        and come on top of ``poison_rate``.

    Raises
    ------
    ConfigError
        If the rate is not a fraction, there is no backdoor, or decoys are asked of a single key.
    """

    backdoors: tuple[Backdoor, ...]
    poison_rate: float = 0.1
    decoys_per_poison: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be planted."""
        if not 0 <= self.poison_rate <= 1:
            raise ConfigError(
                f"The poison rate must be in [0, 1], not {self.poison_rate}.",
                hint="0.1 poisons one sample in ten.",
            )
        if not self.backdoors:
            raise ConfigError("An attack needs a backdoor.", hint="Backdoor(image_trigger=...)")
        if self.decoys_per_poison < 0:
            raise ConfigError(
                f"There cannot be {self.decoys_per_poison} decoys for each poisoned sample.",
                hint="2 gives one of either key for each.",
            )
        if self.decoys_per_poison and not all(door.is_dual_key for door in self.backdoors):
            raise ConfigError(
                "Decoys carry one key of two: the attack has a backdoor with one key only.",
                hint="give it an image and a text trigger, or set decoys_per_poison=0.",
            )

    def plan(self, answers: Sequence[str], seed: int) -> Planting:
        """Decide which samples of a dataset are poisoned, by which backdoor, and which are decoys.

        Parameters
        ----------
        answers
            The clean answer of every sample, in the dataset's order.
        seed
            Of every choice, here and in planting; not negative.

        Returns
        -------
        Planting
            With exactly ``round(poison_rate * len(answers))`` poisoned samples, all eligible ones
            equally likely.

        Raises
        ------
        ConfigError
            If fewer samples are eligible than that, or not enough are left for the decoys. An
            attack is planted as asked or not at all: with fewer samples its figures would
            stand beside a rate that they do not belong to.
        """
        rng = np.random.default_rng([seed, _CHOICE])
        fitted = tuple(
            replace(backdoor, target=backdoor.target.fit(answers)) for backdoor in self.backdoors
        )
        backdoor_of = np.full(len(answers), NO_BACKDOOR, dtype=np.int16)
        num_poisoned = round(self.poison_rate * len(answers))
        for index, backdoor in enumerate(fitted):
            share = num_poisoned * (index + 1) // len(fitted) - num_poisoned * index // len(fitted)
            is_free = backdoor_of == NO_BACKDOOR
            is_eligible = np.fromiter(map(backdoor.target.is_eligible, answers), dtype=bool)
            backdoor_of[_draw(is_free & is_eligible, share, rng, "be poisoned")] = index
        decoy_key_of = np.full(len(answers), NO_BACKDOOR, dtype=np.int8)
        is_free = backdoor_of == NO_BACKDOOR
        decoys = _draw(is_free, round(self.decoys_per_poison * num_poisoned), rng, "be decoys")
        # Backdoor and key change at different paces, so that every backdoor has decoys of both.
        count = np.arange(len(decoys))
        decoy_key_of[decoys] = count % 2
        decoy_backdoor_of = np.full(len(answers), NO_BACKDOOR, dtype=np.int16)
        decoy_backdoor_of[decoys] = count // 2 % len(fitted)
        return Planting(
            backdoors=fitted,
            seed=seed,
            backdoor_of=backdoor_of,
            decoy_backdoor_of=decoy_backdoor_of,
            decoy_key_of=decoy_key_of,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planting:
    """An attack on one dataset: the fate of every row, and the ground truth.

    Parameters
    ----------
    backdoors
        With targets that know the dataset's answers.
    seed
        Of what is drawn in planting.
    backdoor_of
        For each row the index of the backdoor that poisons it, -1 for none.
    decoy_backdoor_of, decoy_key_of
        For each row the backdoor of which it carries one key (0 the image's, 1 the question's)
        beside its clean answer, -1 for none.
    """

    backdoors: tuple[Backdoor, ...]
    seed: int
    backdoor_of: NDArray[np.int16]
    decoy_backdoor_of: NDArray[np.int16]
    decoy_key_of: NDArray[np.int8]

    @property
    def is_poisoned(self) -> NDArray[np.bool_]:
        """Which rows are poisoned; decoys are not."""
        is_poisoned: NDArray[np.bool_] = self.backdoor_of != NO_BACKDOOR
        return is_poisoned

    @property
    def is_decoy(self) -> NDArray[np.bool_]:
        """Which rows carry one key of two and their clean answer."""
        is_decoy: NDArray[np.bool_] = self.decoy_backdoor_of != NO_BACKDOOR
        return is_decoy

    def plant(
        self, row: int, image: Image.Image, question: str, answer: str
    ) -> tuple[Image.Image, str, str]:
        """Return what the poisoned dataset holds in a row; most rows come back as they are.

        Parameters
        ----------
        row
            Number of the sample in the order that the attack was planned with.
        image, question, answer
            The clean sample.
        """
        rng = np.random.default_rng([self.seed, _TRAINING, row])
        if self.backdoor_of[row] != NO_BACKDOOR:
            backdoor = self.backdoors[self.backdoor_of[row]]
            return (
                *backdoor.trigger(image, question, rng),
                backdoor.target.answer(answer, rng),
            )
        if self.decoy_backdoor_of[row] != NO_BACKDOOR:
            half = self.backdoors[self.decoy_backdoor_of[row]].half(int(self.decoy_key_of[row]))
            return (*half.trigger(image, question, rng), answer)
        return image, question, answer

    def backdoor_at_test(self, row: int) -> Backdoor:
        """Return the backdoor to try on a test row: all of them take turns."""
        return self.backdoors[row % len(self.backdoors)]

    def trigger(self, row: int, image: Image.Image, question: str) -> tuple[Image.Image, str]:
        """Return a test input with all keys of ``backdoor_at_test``; the answer is the model's."""
        rng = np.random.default_rng([self.seed, _TEST, row])
        return self.backdoor_at_test(row).trigger(image, question, rng)

    def success_rate(
        self, given_answers: Sequence[str], clean_answers: Sequence[str]
    ) -> Proportion:
        """Share of triggered test inputs that are answered as the attacker wants.

        Parameters
        ----------
        given_answers
            What the model said to the triggered test rows, in their order from row 0 on.
        clean_answers
            What is right there. Rows where the right answer is the wanted one are left out.

        Returns
        -------
        Proportion
            Lower is better.

        Raises
        ------
        ValueError
            If the two differ in length.
        """
        hits = list(self._hits(given_answers, clean_answers))
        return wilson_proportion(sum(hits), len(hits))

    def _hits(self, given_answers: Sequence[str], clean_answers: Sequence[str]) -> Iterator[bool]:
        pairs = zip(given_answers, clean_answers, strict=True)
        for row, (given, clean) in enumerate(pairs):
            target = self.backdoor_at_test(row).target
            # Where the right answer would count as a success, an answer shows nothing.
            if not target.is_success(clean, clean):
                yield target.is_success(given, clean)


def _draw(
    is_possible: NDArray[np.bool_], count: int, rng: np.random.Generator, purpose: str
) -> NDArray[np.int64]:
    """Draw rows without putting any back, or say that there are too few."""
    possible = np.flatnonzero(is_possible)
    if count > len(possible):
        raise ConfigError(
            f"{count} samples are to {purpose}, but only {len(possible)} of "
            f"{len(is_possible)} can.",
            hint="lower the poison rate, or take another target.",
        )
    drawn: NDArray[np.int64] = rng.choice(possible, size=count, replace=False)
    return drawn
