"""How far the probe is from the reference on one specimen, case by case."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.attention import AttentionProbe, AttentionReading
from bye_audit.model.decoder import DecoderView, view_decoder
from bye_audit.model.encodings import Encoding, collate
from bye_audit.model.packing import Question, SharedPrefix, can_pack, prefix_inputs
from conformance.reference import Expected, everything_in, expect, reference_model
from conformance.specimen import FIRST_TEXT_ID, LAST_TEXT_ID, Part, Picture, Prompt, Specimen

_PACKING_FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    UnsupportedModelError,
)
PADDED = ("padded", "several", "sizes")
SYSTEM = 2
"""Every prompt's first positions stand for what was said before the user spoke."""


@dataclass(slots=True)
class Measurement:
    """Largest differences in nats and in shares of attention; what could not be done is missing."""

    class_name: str
    layers: list[int]
    num_image_tokens: list[int]
    is_generic: bool
    worst_entropy: dict[str, float] = field(default_factory=dict)
    worst_mass: dict[str, float] = field(default_factory=dict)
    single_entropy: dict[str, float] = field(default_factory=dict)
    """The same with the probe on the float32 model, whose own rounding is in it."""
    half_entropy: dict[str, float] = field(default_factory=dict)
    """Worst entropy error of half precision, by type."""
    reuse: float | None = None
    """Worst difference of questions packed behind one image from the same alone."""
    num_unseen: int = 0
    """Layers and rows whose window the image had left, rightly without entropy."""

    @property
    def worst_entropy_all(self) -> float:
        """Over all cases, in nats."""
        return max(self.worst_entropy.values())

    @property
    def worst_mass_all(self) -> float:
        """Over all cases."""
        return max(self.worst_mass.values())


def text(seed: int, length: int) -> list[int]:
    """Draw token ids of plain words."""
    generator = np.random.default_rng(seed)
    return [int(token) for token in generator.integers(FIRST_TEXT_ID, LAST_TEXT_ID + 1, length)]


def cases(specimen: Specimen) -> Iterator[tuple[str, list[list[Part]]]]:
    """Name the prompts of one forward pass each."""
    one, two = Picture(1), Picture(2)
    yield "plain", [[text(1, 5), one, text(2, 6)]]
    yield "padded", [[text(1, 5), one, text(2, 6)], [text(3, 8), two, text(4, 13)]]
    yield "far", [[text(5, 4), one, text(6, 40)]]
    if specimen.takes_many_pictures:
        yield "several", [[text(1, 3), one, text(2, 4), two, text(3, 5)], [text(4, 6), two]]
    if specimen.has_sizes:
        large = Picture(3, is_large=True)
        yield "sizes", [[text(1, 5), one, text(2, 6)], [text(3, 5), large, text(4, 6)]]
    if specimen.takes_no_picture:
        yield "none", [[text(1, 12)]]


def measure(specimen: Specimen) -> Measurement:
    """Hold the probe against the reference in every case that the architecture knows."""
    view = view_decoder(specimen.model)
    found = Measurement(
        class_name=type(specimen.model).__name__,
        layers=sorted(view.modules),
        num_image_tokens=[],
        is_generic=view.is_generic,
    )
    # Elsewhere padding moves positions, so that a prompt in a batch is not the prompt alone.
    is_prompt = specimen.axis == "prompt"
    reference = reference_model(specimen)
    doubled = copy.deepcopy(specimen.model).double()
    batches = {
        name: _encode(specimen, parts, is_batched=is_prompt and view.takes_batches)
        for name, parts in cases(specimen)
    }
    expected = {}
    for name, (prompts, inputs) in batches.items():
        expected[name] = expect(reference, specimen, prompts, SYSTEM)
        # Eager attention alone cannot be padded in float64: see `expect`.
        is_exact = name not in PADDED or not _is_eager(view)
        readings = _read(specimen, doubled if is_exact else specimen.model, inputs, prompts)
        worst_entropy, worst_mass = _differences(readings, expected[name])
        found.worst_entropy[name], found.worst_mass[name] = worst_entropy, worst_mass
        singles = _read(specimen, specimen.model, inputs, prompts)
        found.single_entropy[name] = _differences(singles, expected[name])[0]
        if name != "none":
            found.num_image_tokens += [int(n) for r in readings for n in r.num_image_tokens_N]
            found.num_unseen += int(
                np.isnan(expected[name].entropy_BL[:, sorted(view.modules)]).sum()
            )
    for name, cast in {"bfloat16": "bfloat16", "float16": "half"}.items():
        # The methods, unlike `to`, leave complex numbers alone.
        halved = getattr(copy.deepcopy(specimen.model), cast)()
        prompts, inputs = batches["plain"]
        (reading,) = _read(specimen, halved, inputs, prompts)
        found.half_entropy[name] = _worst(reading.entropy_NL, expected["plain"].entropy_BL)
    found.reuse = _measure_reuse(specimen)
    return found


def _encode(
    specimen: Specimen, parts: list[list[Part]], *, is_batched: bool
) -> tuple[list[Prompt], list[dict[str, Tensor]]]:
    """Prompts, and the inputs of one forward pass for all of them or of one for each."""
    prompts = [_with_mask(specimen.encode(part)) for part in parts]
    if not is_batched:
        return prompts, [p.inputs for p in prompts]
    batch = collate([Encoding(p.inputs, SYSTEM) for p in prompts], 0, with_answers=False)
    return prompts, [batch.inputs]


def _with_mask(prompt: Prompt) -> Prompt:
    """Add the mask that every processor gives, and some models compute otherwise without."""
    ids = prompt.inputs.get("input_ids")
    if ids is None or "attention_mask" in prompt.inputs:
        return prompt
    return Prompt({**prompt.inputs, "attention_mask": torch.ones_like(ids)}, prompt.patches_K)


def _shared_length(first_S: Tensor, second_S: Tensor) -> int:
    length = min(len(first_S), len(second_S))
    return int((first_S[:length] == second_S[:length]).long().cumprod(0).sum())


def _is_eager(view: DecoderView) -> bool:
    return any(
        module.config._attn_implementation in (None, "eager") for module in view.modules.values()
    )


def _read(
    specimen: Specimen, model: Any, inputs: list[dict[str, Tensor]], prompts: list[Prompt]
) -> list[AttentionReading]:
    dtype = next(model.parameters()).dtype
    with everything_in(dtype, specimen), AttentionProbe(model) as probe:
        return [
            probe.read(
                {n: v.to(dtype) if v.is_floating_point() else v for n, v in part.items()},
                system_BS=_system(part, prompts) if specimen.axis == "prompt" else None,
            )
            for part in inputs
        ]


def _system(inputs: dict[str, Tensor], prompts: list[Prompt]) -> Tensor:
    length = inputs["input_ids"].shape[1]
    system_BS = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for row in range(len(system_BS)):
        own = prompts[row].inputs["input_ids"].shape[1] if len(system_BS) > 1 else length
        system_BS[row, length - own : length - own + SYSTEM] = True
    return system_BS


def _differences(readings: list[AttentionReading], expected: Expected) -> tuple[float, float]:
    """Worst entropy and worst mass, of the average head and of each."""

    def worst(name: str, wanted: NDArray[np.float64]) -> float:
        return _worst(np.concatenate([getattr(r, name) for r in readings]), wanted)

    return (
        max(
            worst("entropy_NL", expected.entropy_BL),
            worst("head_entropy_NLH", expected.head_entropy_BLH),
        ),
        max(
            worst("image_mass_NL", expected.mass_BL),
            worst("image_mass_NLH", expected.head_mass_BLH),
            worst("system_mass_NLH", expected.system_mass_BLH),
        ),
    )


def _worst(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Largest difference; infinite where one side has no value and the other has."""
    shape = expected.shape
    found = found[tuple(slice(0, extent) for extent in shape)]
    if found.shape != shape or (np.isnan(found) != np.isnan(expected)).any():
        return float("inf")
    return float(np.nanmax(np.abs(found - expected), initial=0.0))


def _measure_reuse(specimen: Specimen) -> float | None:
    """Compare questions packed behind one picture with the same questions alone."""
    with AttentionProbe(specimen.model) as probe:
        if not can_pack(probe):
            return None
        questions = [text(10 + n, length) for n, length in enumerate((6, 11, 3))]
        lead: list[Part] = [text(9, 5), Picture(1)]
        encoded = [specimen.encode([*lead, question]).inputs for question in questions]
        shared = _shared_length(encoded[0]["input_ids"][0], encoded[1]["input_ids"][0])
        alone = [probe.read(inputs) for inputs in encoded]
        try:
            prefix = SharedPrefix(probe, prefix_inputs(encoded[0], shared), SYSTEM, is_deep=False)
            packed, _ = prefix.ask(
                [Question(inputs["input_ids"][0, shared:].tolist()) for inputs in encoded]
            )
        except _PACKING_FAULTS:
            return float("inf")
    return max(
        max(
            _worst(packed.entropy_NL[row : row + 1], one.entropy_NL),
            _worst(packed.image_mass_NLH[row : row + 1], one.image_mass_NLH),
        )
        for row, one in enumerate(alone)
    )
