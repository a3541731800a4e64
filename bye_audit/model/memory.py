"""How much device memory fine-tuning and scoring need, from a model's shapes alone.

The formula (T trained weights, all in float32; P positions of a micro-batch; d bytes of a value in
the model's precision)::

    base weights         d a weight; quantised, 1.004 or 0.516 bytes a decoder weight
    trained weights      4 T
    gradients            4 T
    optimiser states     8 T           AdamW keeps two moments
    kept activations     P times what the layers keep of a position (see LayerWidths), with
                         gradient checkpointing each layer's input; the last norm's and the
                         projector's; in bfloat16 a copy of the trained weights
    working memory       the larger of the logits' and one layer's own

Not counted: the CUDA context, the allocator's fragments, the vision tower's passing activations (it
is frozen, so it keeps none) and, with several devices, the buckets of the gradients' exchange.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForImageTextToText

from bye_audit.config import FinetuneConfig
from bye_audit.errors import UnsupportedModelError
from bye_audit.model.adapter import adapter_weights, put_fresh_adapter
from bye_audit.model.files import LOADING_FAULTS, find_folder, first_line
from bye_audit.model.targets import find_projector, find_targets

# NF4 with a byte of scale for 64 weights, that scale's own for 256 scales; int8 with a scale a row.
_QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1 + 4 / 1024}
# Projections that read what their neighbour reads.
_SHARE_INPUT = ("k_proj", "v_proj", "up_proj")
# Of a logit in its own precision: the choice of learnt positions and its log-softmax are float32.
_LOGIT_BYTES = 4 + 4


@dataclass(frozen=True, slots=True)
class LayerWidths:
    """Values that one decoder layer keeps of each position until its backward pass."""

    norms: int
    """Inputs of the norms, which calculate in float32."""
    attention: int
    """Queries, keys and values of every head, and what attention makes of them."""
    mlp: int
    """The gate, its activation and the other factor; of every expert a token goes to."""
    adapted_inputs: int
    """Inputs of the adapted layers, each a copy where the adapter casts it."""
    distinct_inputs: int
    """The same with neighbours sharing theirs, where nothing is cast."""
    ranks: int
    """What lies between the two matrices of each adapter."""

    def kept_bytes(self, value_bytes: int) -> int:
        """Bytes a position in a precision of so many bytes a value."""
        inputs = self.distinct_inputs if value_bytes == 4 else self.adapted_inputs
        return 4 * self.norms + value_bytes * (self.attention + self.mlp + inputs + self.ranks)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the formula needs to know of a model with an untrained adapter."""

    num_base_weights: int
    num_decoder_weights: int
    """Of the decoder's linear layers: those that quantisation makes smaller."""
    num_trained_weights: int
    num_adapted_layers: int
    projector: str | None
    hidden_size: int
    vocabulary_size: int
    num_heads: int
    layers: tuple[LayerWidths, ...]

    def base_bytes(self, value_bytes: int, quantization: str = "none") -> int:
        """Bytes of the base model's weights."""
        plain = self.num_base_weights
        if quantization == "none":
            return plain * value_bytes
        small = self.num_decoder_weights
        return (plain - small) * value_bytes + round(small * _QUANTIZED_BYTES[quantization])


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on one device."""

    base_weights: int
    trained_weights: int
    gradients: int = 0
    optimizer_states: int = 0
    kept_activations: int = 0
    working_memory: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return (
            self.base_weights
            + self.trained_weights
            + self.gradients
            + self.optimizer_states
            + self.kept_activations
            + self.working_memory
        )


def sketch_model(
    name_or_path: str, config: FinetuneConfig, *, trust_remote_code: bool = False
) -> ModelShape:
    """Build a model and its adapter without weights, and take its measures.

    Parameters
    ----------
    name_or_path
        A folder with at least a ``config.json``, or a hub id.
    config
        Rank of the adapter, and whether the projector is trained.
    trust_remote_code
        Run code that comes with the model.

    Returns
    -------
    ModelShape
        Its measures; nothing was allocated.

    Raises
    ------
    UnsupportedModelError
        If the folder has no config of a vision-language model.
    """
    folder, name, _ = find_folder(name_or_path)
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                settings, trust_remote_code=trust_remote_code
            )
    # Whatever a foreign folder holds, transformers says so by one of these.
    except LOADING_FAULTS as error:
        raise UnsupportedModelError(
            f"{name} cannot be planned for: {first_line(error)}",
            hint="Its folder needs the config.json of an image-text-to-text model.",
        ) from error
    return measure_shape(model, config)


def measure_shape(model: Any, config: FinetuneConfig) -> ModelShape:
    """Take the measures of a base model; an adapter is put on it."""
    text = model.config.get_text_config(decoder=True)
    projector = find_projector(model) if config.train_projector else None
    num_base = sum(parameter.numel() for parameter in model.parameters())
    decoder = model.get_decoder()
    targets = set(find_targets(model))
    num_decoder = sum(m.weight.numel() for n, m in model.named_modules() if n in targets)
    wrapped = put_fresh_adapter(model.requires_grad_(False), config, projector)
    return ModelShape(
        num_base_weights=num_base,
        num_decoder_weights=num_decoder,
        num_trained_weights=sum(p.numel() for _, p in adapter_weights(wrapped)),
        num_adapted_layers=sum(isinstance(m, LoraLayer) for m in wrapped.modules()),
        projector=projector,
        hidden_size=int(text.hidden_size),
        vocabulary_size=int(text.vocab_size),
        num_heads=int(text.num_attention_heads),
        layers=tuple(_measure_layer(layer, text, config) for layer in _layers(decoder)),
    )


def estimate_finetune(
    shape: ModelShape,
    *,
    num_samples: int,
    length: int,
    num_logits: int,
    value_bytes: int,
    is_checkpointing: bool,
    quantization: str = "none",
) -> MemoryEstimate:
    """Say what the largest moment of a training step takes.

    Parameters
    ----------
    shape
        The model's measures.
    num_samples
        Samples of a micro-batch.
    length
        Positions of the longest of them.
    num_logits
        Positions of each that predict something: from the last of the prompt on.
    value_bytes
        Bytes of a value in the model's precision: 4 for float32, 2 for bfloat16.
    is_checkpointing
        Whether layers keep only their input.
    quantization
        ``none``, ``8bit`` or ``4bit``.

    Returns
    -------
    MemoryEstimate
        On one device.
    """
    positions = num_samples * length
    layers = [
        _layer_bytes(layer, shape, num_samples, length, value_bytes) for layer in shape.layers
    ]
    work = positions * max(_backward_bytes(layer, shape, value_bytes) for layer in shape.layers)
    # Outside the layers: the last norm's input, and what the projector keeps of an image token.
    kept = positions * shape.hidden_size * (4 + 2 * value_bytes)
    if value_bytes != 4:
        # Mixed precision casts the trained weights for the step.
        kept += value_bytes * shape.num_trained_weights
    if is_checkpointing:
        kept += len(layers) * positions * shape.hidden_size * value_bytes
        work += max(layers)
    else:
        kept += sum(layers)
    trained = 4 * shape.num_trained_weights
    return MemoryEstimate(
        base_weights=shape.base_bytes(value_bytes, quantization),
        trained_weights=trained,
        gradients=trained,
        optimizer_states=2 * trained,
        kept_activations=kept,
        working_memory=max(work, _logits_bytes(shape, num_samples * num_logits, value_bytes)),
    )


def estimate_score(
    shape: ModelShape,
    *,
    num_samples: int,
    length: int,
    num_logits: int,
    value_bytes: int,
    quantization: str = "none",
) -> MemoryEstimate:
    """Say what a scoring pass takes; parameters as of `estimate_finetune`."""
    positions = num_samples * length
    # Nothing is kept for a backward pass: one layer's values at a time, and the hidden states.
    widest = max(layer.attention + layer.mlp for layer in shape.layers) + 4 * shape.hidden_size
    return MemoryEstimate(
        base_weights=shape.base_bytes(value_bytes, quantization),
        trained_weights=4 * shape.num_trained_weights,
        working_memory=max(
            positions * widest * value_bytes,
            num_samples * num_logits * shape.vocabulary_size * value_bytes
            + num_logits * shape.vocabulary_size * 2 * 4,
        ),
    )


def _layers(decoder: Any) -> Any:
    # Some decoders come with their head around them.
    layers = getattr(getattr(decoder, "model", decoder), "layers", None)
    if layers is None:
        raise UnsupportedModelError(
            "The model's decoder has no list of layers that could be measured.",
            hint="Use a model of transformers itself.",
        )
    return layers


def _measure_layer(layer: Any, text: Any, config: FinetuneConfig) -> LayerWidths:
    hidden = int(text.hidden_size)
    heads = int(text.num_attention_heads)
    head_size = int(getattr(text, "head_dim", None) or hidden // heads)
    adapted = list(_adapted(layer))
    inputs = [module.in_features for _, module in adapted]
    distinct = [m.in_features for leaf, m in adapted if leaf not in _SHARE_INPUT]
    return LayerWidths(
        norms=sum(
            # A norm of single heads is as wide as all of them.
            module.weight.numel() if module.weight.numel() >= hidden else heads * head_size
            for module in layer.modules()
            if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
        ),
        # Keys and values are repeated for every query head where a mask is there.
        attention=4 * heads * head_size,
        mlp=3 * _mlp_width(layer, text),
        adapted_inputs=sum(inputs),
        distinct_inputs=sum(distinct),
        ranks=len(adapted) * config.lora_rank,
    )


def _adapted(layer: Any) -> Iterator[tuple[str, Any]]:
    for name, module in layer.named_modules():
        if isinstance(module, LoraLayer):
            yield name.rpartition(".")[2], module


def _mlp_width(layer: Any, text: Any) -> int:
    """Width of the middle of the feed-forward part, over all experts one token goes to."""
    is_mixture = any(name.rpartition(".")[2] == "experts" for name, _ in layer.named_modules())
    if not is_mixture:
        return int(text.intermediate_size)
    width = int(getattr(text, "moe_intermediate_size", None) or text.intermediate_size)
    shared = int(getattr(text, "shared_expert_intermediate_size", None) or 0)
    return int(getattr(text, "num_experts_per_tok", 1)) * width + shared


def _layer_bytes(
    layer: LayerWidths, shape: ModelShape, num_samples: int, length: int, value_bytes: int
) -> int:
    # The mask is square, and a copy in the model's precision is kept in every layer.
    mask = num_samples * length * length * value_bytes
    return num_samples * length * (layer.kept_bytes(value_bytes) + 4 * shape.num_heads) + mask


def _backward_bytes(layer: LayerWidths, shape: ModelShape, value_bytes: int) -> int:
    """Bytes a position that pass while one layer's gradients are calculated."""
    return layer.mlp * value_bytes + 2 * 4 * shape.hidden_size


def _logits_bytes(shape: ModelShape, num_positions: int, value_bytes: int) -> int:
    # Under mixed precision the model's output is also copied to float32.
    own = value_bytes if value_bytes == 4 else value_bytes + 4
    return num_positions * shape.vocabulary_size * (own + _LOGIT_BYTES)
