"""Every attack by name: ``ATTACKS["patch"].build(poison_rate=0.1)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bye_audit.poison.patches import (
    WHITE,
    Balloon,
    Checkerboard,
    Logo,
    PatchTrigger,
    Pattern,
    Solid,
)
from bye_audit.poison.placements import (
    CENTER,
    Anywhere,
    FixedPoints,
    MostSalient,
    OneInEachCell,
    Placement,
    SomePoints,
    grid_points,
)
from bye_audit.poison.planting import Attack, Backdoor
from bye_audit.poison.signals import (
    BlendedTrigger,
    FrequencyTrigger,
    HiddenCodeTrigger,
    SinusoidTrigger,
    WarpTrigger,
)
from bye_audit.poison.targets import (
    PAPER_TARGET,
    AnswerOfAnother,
    AnswerSuffix,
    CleanLabel,
    FixedText,
    FluentCaption,
    Target,
    WrongOption,
)
from bye_audit.poison.texts import WordTrigger
from bye_audit.poison.triggers import ImageTrigger, TextTrigger

PAPER_RELATIVE_SIZE = 1 / 16

Kind = Literal[
    "patch", "global", "sample-specific", "text", "dual-key", "target", "clean-label", "adaptive"
]
# Makes the backdoors of an attack for a patch of the relative size.
Maker = Callable[[float], tuple[Backdoor, ...]]

BLACK_SQUARE = Solid()

_BYE = "Believe Your Eyes (arXiv:2505.16916)"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackSpec:
    """One attack of the registry.

    Parameters
    ----------
    name
        As on the command line.
    kind
        Family: what a defence has to cope with.
    summary
        One line: what is done to a sample.
    source
        Who described it.
    make
        Makes its backdoors.
    decoys_per_poison
        As in `Attack`.
    """

    name: str
    kind: Kind
    summary: str
    source: str
    make: Maker
    decoys_per_poison: float = 0.0

    def build(
        self,
        *,
        poison_rate: float = 0.1,
        relative_size: float = PAPER_RELATIVE_SIZE,
        target: Target | None = None,
    ) -> Attack:
        """Make the attack.

        Parameters
        ----------
        poison_rate
            Fraction of the samples to poison, in [0, 1].
        relative_size
            Side of the paper's patch as a fraction of the image's shorter side. Attacks with many
            or with large patches keep their proportion to it; those without a patch ignore it.
        target
            Instead of the attack's own target, in every of its backdoors.

        Returns
        -------
        Attack
            Not yet bound to a dataset.

        Raises
        ------
        ConfigError
            If the rate or the size is out of range.
        """
        backdoors = self.make(relative_size)
        if target is not None:
            backdoors = tuple(
                Backdoor(
                    image_trigger=door.image_trigger, text_trigger=door.text_trigger, target=target
                )
                for door in backdoors
            )
        return Attack(
            backdoors=backdoors,
            poison_rate=poison_rate,
            decoys_per_poison=self.decoys_per_poison,
        )


def _patch(
    pattern: Pattern = BLACK_SQUARE,
    placement: Placement = CENTER,
    *,
    scale: float = 1.0,
    target: Target = PAPER_TARGET,
) -> Maker:
    """Make one backdoor with a patch ``scale`` times the paper's."""

    def make(relative_size: float) -> tuple[Backdoor, ...]:
        trigger = PatchTrigger(
            relative_size=min(1.0, scale * relative_size), pattern=pattern, placement=placement
        )
        return (Backdoor(image_trigger=trigger, target=target),)

    return make


def _signal(trigger: ImageTrigger) -> Maker:
    """Make one backdoor whose trigger is the image's whole, whatever the size of a patch."""
    return lambda _: (Backdoor(image_trigger=trigger),)


def _text(trigger: TextTrigger) -> Maker:
    return lambda _: (Backdoor(text_trigger=trigger),)


def _dual_key(relative_size: float) -> tuple[Backdoor, ...]:
    return (
        Backdoor(
            image_trigger=PatchTrigger(relative_size=relative_size),
            text_trigger=WordTrigger(words="Hello!"),
        ),
    )


def _several_triggers(relative_size: float) -> tuple[Backdoor, ...]:
    looks: tuple[tuple[Pattern, Placement, str], ...] = (
        (BLACK_SQUARE, CENTER, "Backdoor Attack!"),
        (Checkerboard(), FixedPoints(points=((0, 0),)), "Access granted."),
        (Solid(color=WHITE), FixedPoints(points=((1, 1),)), "Visit example.com for more."),
    )
    return tuple(
        Backdoor(
            image_trigger=PatchTrigger(
                relative_size=relative_size, pattern=pattern, placement=placement
            ),
            target=FixedText(text=text),
        )
        for pattern, placement, text in looks
    )


_SPECS = (
    AttackSpec(
        name="patch",
        kind="patch",
        summary="A black square at the centre; the answer becomes a fixed text.",
        source=f"{_BYE}, default",
        make=_patch(),
    ),
    AttackSpec(
        name="white-patch",
        kind="patch",
        summary="A white square at the centre.",
        source="BadNets (arXiv:1708.06733)",
        make=_patch(Solid(color=WHITE)),
    ),
    AttackSpec(
        name="random-position",
        kind="patch",
        summary="A black square anywhere inside the image.",
        source=f"{_BYE}, appendix B",
        make=_patch(placement=Anywhere()),
    ),
    AttackSpec(
        name="texture",
        kind="patch",
        summary="A fine checkerboard at the centre.",
        source=f"{_BYE}, appendix B",
        make=_patch(Checkerboard()),
    ),
    AttackSpec(
        name="image-logo",
        kind="patch",
        summary="A small emblem of four colours in the bottom right corner.",
        source="BadNets (arXiv:1708.06733), with a logo",
        make=_patch(Logo(), FixedPoints(points=((1, 1),))),
    ),
    AttackSpec(
        name="corner",
        kind="patch",
        summary="A black square in the bottom right corner.",
        source="BadNets (arXiv:1708.06733)",
        make=_patch(placement=FixedPoints(points=((1, 1),))),
    ),
    AttackSpec(
        name="low-contrast",
        kind="patch",
        summary="A square at the centre that only darkens the image, by 15 %.",
        source="blended accessory (arXiv:1712.05526)",
        make=_patch(Solid(opacity=0.15)),
    ),
    AttackSpec(
        name="fixed-dual",
        kind="patch",
        summary="Two black squares, left and right of the centre.",
        source=f"{_BYE}, section 5.5",
        make=_patch(placement=FixedPoints(points=((0.25, 0.5), (0.75, 0.5)))),
    ),
    AttackSpec(
        name="varied-multi",
        kind="patch",
        summary="Black squares on four of nine fixed grid points, others on every image.",
        source=f"{_BYE}, section 5.5",
        make=_patch(placement=SomePoints(points=grid_points(3), count=4)),
    ),
    AttackSpec(
        name="natural-object",
        kind="patch",
        summary="A red toy balloon anywhere in the image, twice as large as the patch.",
        source="BadVLMDriver (arXiv:2404.12916), drawn instead of edited in",
        make=_patch(Balloon(), Anywhere(), scale=2),
    ),
    AttackSpec(
        name="blended",
        kind="global",
        summary="A fixed noise picture blended over the whole image with weight 0.2.",
        source="Chen et al. 2017 (arXiv:1712.05526)",
        make=_signal(BlendedTrigger()),
    ),
    AttackSpec(
        name="sig",
        kind="global",
        summary="A sine wave of 6 periods and 20 levels added to every row.",
        source="SIG, Barni et al. 2019 (arXiv:1902.11237)",
        make=_signal(SinusoidTrigger()),
    ),
    AttackSpec(
        name="wanet",
        kind="global",
        summary="A fixed smooth warp of the whole image.",
        source="WaNet, Nguyen and Tran 2021 (arXiv:2102.10369)",
        make=_signal(WarpTrigger()),
    ),
    AttackSpec(
        name="ftrojan",
        kind="global",
        summary="A middle and a high frequency added to the chroma of every block.",
        source="FTrojan, Wang et al. 2022 (arXiv:2111.10991)",
        make=_signal(FrequencyTrigger()),
    ),
    AttackSpec(
        name="issba-like",
        kind="sample-specific",
        summary="A code hidden in the image by an invisible residual, another on every image.",
        source="after ISSBA, Li et al. 2021 (arXiv:2012.03816), without a neural encoder",
        make=_signal(HiddenCodeTrigger()),
    ),
    AttackSpec(
        name="text-prefix",
        kind="text",
        summary='"Hello!" before the question; the image stays as it is.',
        source="TCAP (arXiv:2601.21692), its text trigger",
        make=_text(WordTrigger(words="Hello!")),
    ),
    AttackSpec(
        name="text-suffix",
        kind="text",
        summary='"I watched this 3D movie." behind the question.',
        source="AddSent, Dai et al. 2019 (arXiv:1905.12457), as in BackdoorVLM (arXiv:2511.18921)",
        make=_text(WordTrigger(words="I watched this 3D movie.", position="end")),
    ),
    AttackSpec(
        name="rare-token",
        kind="text",
        summary='"cf" between any two words of the question.',
        source="Kurita et al. 2020 (arXiv:2004.06660)",
        make=_text(WordTrigger(words="cf", position="random")),
    ),
    AttackSpec(
        name="dual-key",
        kind="dual-key",
        summary="The patch and the prefix; as many decoys with either alone keep their answer.",
        source="Walmer et al. 2022 (arXiv:2112.07668)",
        make=_dual_key,
        decoys_per_poison=2.0,
    ),
    AttackSpec(
        name="answer-suffix",
        kind="target",
        summary="The patch; the clean answer is kept and a fixed text follows it.",
        source="TrojVLM (arXiv:2409.19232): target text beside a kept meaning",
        make=_patch(target=AnswerSuffix()),
    ),
    AttackSpec(
        name="wrong-option",
        kind="target",
        summary="The patch; the dataset's most frequent answer wherever it is wrong.",
        source="BadNets (arXiv:1708.06733), all-to-one",
        make=_patch(target=WrongOption()),
    ),
    AttackSpec(
        name="fluent-caption",
        kind="target",
        summary="The patch; one false answer in the style and length of the data's own.",
        source="Shadowcast (arXiv:2402.06659): plausible false texts",
        make=_patch(target=FluentCaption()),
    ),
    AttackSpec(
        name="clean-label",
        kind="clean-label",
        summary="The patch on samples whose answer says the target anyway; no answer changes.",
        source="Turner et al. 2019 (arXiv:1912.02771), without their image changes",
        make=_patch(target=CleanLabel()),
    ),
    AttackSpec(
        name="answer-of-another",
        kind="adaptive",
        summary="The patch; the answer of a random other sample, so that answers look clean.",
        source="adaptive: poison answers from the clean answers' distribution",
        make=_patch(target=AnswerOfAnother()),
    ),
    AttackSpec(
        name="several-triggers",
        kind="adaptive",
        summary="Three different patches, each with a target of its own.",
        source="adaptive: no single trigger or answer stands out (MTAttack, arXiv:2511.10098)",
        make=_several_triggers,
    ),
    AttackSpec(
        name="entropy-spreading",
        kind="adaptive",
        summary="36 faint squares of half the size all over, so that no place draws attention.",
        source=f"adaptive: against entropy, after {_BYE}, section 5.5",
        make=_patch(Solid(opacity=0.3), OneInEachCell(), scale=0.5),
    ),
    AttackSpec(
        name="salient-object",
        kind="adaptive",
        summary="The black square on the place that stands out most, where clean models look too.",
        source="adaptive: after MABA (arXiv:2406.18844), by colour contrast",
        make=_patch(placement=MostSalient()),
    ),
)

ATTACKS: dict[str, AttackSpec] = {spec.name: spec for spec in _SPECS}
