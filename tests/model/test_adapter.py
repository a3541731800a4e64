"""What is adapted in decoders of other shapes than LLaVA's: really trained, saved and reloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaConfig,
    Phi3Config,
)

from bye_audit.config import FinetuneConfig
from bye_audit.model.adapter import put_fresh_adapter
from bye_audit.model.quiet import ignoring_future_warnings
from bye_audit.model.targets import find_projector, find_targets

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
DENSE = ATTENTION | {"gate_proj", "up_proj", "down_proj"}
RECURRENT = {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"}
# Leaves that are adapted, by architecture.
EXPECTED = {
    "qwen2_5_vl": DENSE,
    "qwen3_vl_moe": ATTENTION,
    "qwen3_5": DENSE | RECURRENT,
    "qwen3_5_moe": ATTENTION | RECURRENT,
    "gemma3": DENSE,
    "glm4v": ATTENTION | {"gate_up_proj", "down_proj"},
    "glm4v_moe": ATTENTION,
    "llama4": ATTENTION,
    "llava with phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
}
SMALL: dict[str, Any] = {
    "num_hidden_layers": 4,
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "out_hidden_size": 32,
    "deepstack_visual_indexes": [0],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}


def build(name: str) -> Any:
    """Make a small random model of an architecture."""
    if name == "llava with phi3":
        config = LlavaConfig(text_config=Phi3Config(), vision_config=CLIPVisionConfig())
    else:
        config = CONFIG_MAPPING[name]()
    for part in (config, config.get_text_config(decoder=True), config.vision_config):
        for key, value in SMALL.items():
            if getattr(part, key, None) is not None:
                setattr(part, key, value)
        for key in ("layer_types", "mlp_layer_types", "no_rope_layers"):
            if getattr(part, key, None):
                setattr(part, key, getattr(part, key)[:4])
        if getattr(part, "moe_layers", None):
            part.moe_layers = [1, 3]
        rope = getattr(part, "rope_parameters", None)
        if rope and name.startswith(("qwen", "glm")):
            rope["mrope_section"] = [2, 3, 3]
            rope["partial_rotary_factor"] = 1.0
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).float()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_decoder_alone_is_adapted_trained_and_reloaded(name: str, tmp_path: Path) -> None:
    base = build(name).requires_grad_(False).eval()
    prefix = next(n for n, module in base.named_modules() if module is base.get_decoder())
    config = FinetuneConfig(lora_rank=2, train_projector=False)
    model = put_fresh_adapter(base, config, None)
    adapted = [
        n.removeprefix("base_model.model.")
        for n, module in model.named_modules()
        if isinstance(module, LoraLayer)
    ]
    assert all(n.startswith(f"{prefix}.") for n in adapted)
    assert {n.rpartition(".")[2] for n in adapted} == EXPECTED[name]
    assert len(adapted) == len(set(adapted))

    ids = torch.randint(5, 100, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logits.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        is_trained = "lora_" in parameter_name
        assert (parameter.grad is not None) == is_trained, parameter_name
        if is_trained:
            assert torch.isfinite(parameter.grad).all()

    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with ignoring_future_warnings():
        reloaded = PeftModel.from_pretrained(build(name).eval(), str(tmp_path))
    with torch.no_grad():
        again = reloaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(again, logits.detach())


@pytest.mark.parametrize("name", ["llama4", "qwen3_5_moe", "glm4v_moe", "qwen3_vl_moe"])
def test_routers_and_experts_are_left_alone(name: str) -> None:
    targets = find_targets(build(name))
    leaves = {target.rpartition(".")[2] for target in targets}
    assert not {leaf for leaf in leaves if "router" in leaf or leaf.endswith("gate")}
    assert not [target for target in targets if "expert" in target or "lm_head" in target]


@pytest.mark.parametrize(
    ("name", "projector"),
    [
        ("qwen3_vl_moe", "model.visual.merger"),
        ("gemma3", "model.multi_modal_projector"),
        ("llama4", "multi_modal_projector"),
        ("llava with phi3", "model.multi_modal_projector"),
    ],
)
def test_the_projector_is_found(name: str, projector: str) -> None:
    assert find_projector(build(name)) == projector
