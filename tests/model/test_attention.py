from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.conversations import converse, draw_conversations
from transformers.modeling_utils import AttentionInterface

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.attention import AttentionProbe, AttentionReading
from bye_audit.model.decoder import view_decoder
from bye_audit.model.encodings import Batch
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.maps import image_attention
from bye_audit.model.prompts import Conversation
from bye_audit.model.row import AttentionCall, row_logits
from bye_audit.model.spans import learn_separators


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


def encode(vlm: VisionLanguageModel, count: int = 3, *, with_answers: bool = False) -> Batch:
    conversations = [
        *draw_conversations(count - 1),
        converse("A longer question than the others: what is where?", "red", *one_image()),
    ]
    encodings = [vlm.encoder.encode(c, "all" if with_answers else "none") for c in conversations]
    return vlm.encoder.collate(encodings, with_answers=with_answers)


def read(probe: AttentionProbe, batch: Batch) -> AttentionReading:
    return probe.read(batch.inputs, rows_BR=batch.last_rows, system_BS=batch.system_BS)


def one_image() -> tuple[object, ...]:
    return tuple(draw_conversations(1, seed=9)[0].images)


def reference_entropy(folder: Path, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Entropy and image mass by the ordinary way: eager attention, all maps, float64 numpy."""
    reference = load_model(str(folder))
    reference.model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = reference.model(**batch.inputs, output_attentions=True)
    entropies, masses = [], []
    for attention in outputs.attentions:
        row = attention[:, :, batch.prompt_length - 1].double().mean(1).numpy()
        image = np.where(batch.inputs["input_ids"] == reference.encoder.image_token_id, row, 0.0)
        masses.append(image.sum(1))
        share = image / image.sum(1, keepdims=True)
        log = np.log(np.where(share > 0, share, 1.0))
        entropies.append(-(share * log).sum(1))
    return np.stack(entropies, 1), np.stack(masses, 1)


def test_entropy_and_mass_equal_those_of_eager_attention_maps(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path
) -> None:
    batch = encode(vlm)
    with AttentionProbe(vlm.model) as probe:
        reading = read(probe, batch)
    entropy, mass = reference_entropy(tiny_vlm_dir, batch)
    assert entropy.std() > 0.05, "a uniform reference would prove nothing"
    np.testing.assert_allclose(reading.entropy_NL, entropy, atol=1e-5)
    np.testing.assert_allclose(reading.image_mass_NL, mass, atol=1e-5)


def test_answers_behind_the_prompt_do_not_move_the_row(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm.model) as probe:
        alone = read(probe, encode(vlm))
        batch = encode(vlm, with_answers=True)
        followed, outputs = probe.read_with_outputs(
            batch.inputs, rows_BR=batch.last_rows, logits_to_keep=1
        )
    np.testing.assert_allclose(followed.entropy_NL, alone.entropy_NL, atol=1e-5)
    assert outputs.logits.shape[:2] == (3, 1)


def test_a_padded_sample_reads_as_it_does_alone(vlm: VisionLanguageModel) -> None:
    conversation = draw_conversations(1)[0]
    encoding = vlm.encoder.encode(conversation, "none")
    with AttentionProbe(vlm.model) as probe:
        alone = read(probe, vlm.encoder.collate([encoding], with_answers=False))
        together = read(probe, encode(vlm))
    np.testing.assert_allclose(together.entropy_NL[0], alone.entropy_NL[0], atol=1e-5)
    np.testing.assert_allclose(together.head_entropy_NLH[0], alone.head_entropy_NLH[0], atol=1e-5)


def test_masses_of_system_image_and_text_add_up_to_all_attention(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm.model) as probe:
        reading = read(probe, encode(vlm))
    total = reading.system_mass_NLH + reading.image_mass_NLH + reading.text_mass_NLH
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert (reading.num_image_tokens_N == 81).all()


def test_attention_that_misses_the_image_is_not_a_number_rather_than_collapsed(
    vlm: VisionLanguageModel,
) -> None:
    conversation = Conversation([{"role": "user", "content": "What is red?"}])
    batch = vlm.encoder.collate([vlm.encoder.encode(conversation)], with_answers=False)
    with AttentionProbe(vlm.model) as probe:
        reading = read(probe, batch)
    assert np.isnan(reading.entropy_NL).all()
    assert (reading.image_mass_NL == 0).all()


def test_closing_the_probe_leaves_no_trace(vlm: VisionLanguageModel) -> None:
    before = dict(AttentionInterface._global_mapping)
    with AttentionProbe(vlm.model) as probe:
        assert dict(AttentionInterface._global_mapping) != before
        read(probe, encode(vlm))
    assert dict(AttentionInterface._global_mapping) == before
    for module in view_decoder(vlm.model).modules.values():
        assert not [name for name in vars(module) if "bye_audit" in name]


def test_models_with_eager_attention_only_are_read_alike(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path
) -> None:
    eager = load_model(str(tiny_vlm_dir))
    eager.model.set_attn_implementation("eager")
    batch = encode(vlm)
    with AttentionProbe(eager.model) as probe:
        by_eager = read(probe, batch)
    with AttentionProbe(vlm.model) as probe:
        by_sdpa = read(probe, batch)
    np.testing.assert_allclose(by_eager.entropy_NL, by_sdpa.entropy_NL, atol=1e-5)


def test_a_subset_of_layers_reads_only_those(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm.model, [1]) as probe:
        reading = read(probe, encode(vlm))
    assert np.isfinite(reading.entropy_NL[:, 1]).all()
    assert np.isnan(reading.entropy_NL[:, [0, 2]]).all()


def test_layers_that_are_not_there_are_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no attention in layers \[9\]"):
        AttentionProbe(vlm.model, [1, 9])


def test_maps_are_shares_on_the_grid_of_the_image(vlm: VisionLanguageModel) -> None:
    (found,) = image_attention(vlm, draw_conversations(1), [0, 2])
    assert found.attention_LT.shape == (2, 81)
    assert found.grid == (9, 9)
    np.testing.assert_allclose(found.attention_LT.sum(1), 1.0, atol=1e-5)
    with AttentionProbe(vlm.model) as probe:
        encoding = vlm.encoder.encode(draw_conversations(1)[0], "none")
        reading = read(probe, vlm.encoder.collate([encoding], with_answers=False))
    entropy = -(found.attention_LT * np.log(found.attention_LT)).sum(1)
    np.testing.assert_allclose(entropy, reading.entropy_NL[0, [0, 2]], atol=1e-4)


def test_image_features_elsewhere_than_image_tokens_are_refused(vlm: VisionLanguageModel) -> None:
    batch = encode(vlm)
    view = view_decoder(vlm.model)
    assert learn_separators(vlm.base, view, batch.inputs) is None
    shifted = dataclasses.replace(view, find_image=lambda i: view.find_image(i).roll(1, dims=1))
    with pytest.raises(UnsupportedModelError, match="do not land") as caught:
        learn_separators(vlm.base, shifted, batch.inputs)
    assert "-hf" in caught.value.hint


def call(query: torch.Tensor, key: torch.Tensor, mask: Any = None, **options: Any) -> AttentionCall:
    is_flash = options.pop("is_flash", False)
    return AttentionCall(query, key, mask, options, is_causal=True, is_flash=is_flash)


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("kind", ["causal", "boolean", "additive", "kept-keys"])
def test_rows_of_logits_equal_those_of_the_full_map(
    kind: str, groups: int, rng: np.random.Generator
) -> None:
    query = torch.from_numpy(rng.normal(size=(2, 4, 6, 8)).astype(np.float32))
    key = torch.from_numpy(rng.normal(size=(2, 4 // groups, 6, 8)).astype(np.float32))
    full = query.double() @ key.double().repeat_interleave(groups, 1).transpose(2, 3) / 8**0.5
    kept = torch.ones(2, 6, dtype=torch.bool)
    kept[1, :2] = False
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()[None, None] & kept[:, None, None]
    masks = {
        "causal": None,
        "boolean": allowed,
        "additive": torch.zeros(2, 1, 6, 6).masked_fill(~allowed, -torch.inf),
        "kept-keys": kept,
    }
    if kind == "causal":
        allowed = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    rows_BR = torch.tensor([[4, 5], [5, 3]])
    found = row_logits(call(query, key, masks[kind]), rows_BR).softmax(-1)
    maps = full.masked_fill(~allowed, -torch.inf).softmax(-1)
    for sample in range(2):
        expected = maps[sample][:, rows_BR[sample]]
        np.testing.assert_allclose(found[sample].numpy(), expected.numpy(), atol=1e-6)


def test_soft_caps_and_windows_are_honoured(rng: np.random.Generator) -> None:
    query = torch.from_numpy(rng.normal(size=(1, 1, 5, 4)).astype(np.float32)) * 5
    key = torch.from_numpy(rng.normal(size=(1, 1, 5, 4)).astype(np.float32))
    last = torch.tensor([[4]])
    plain = row_logits(call(query, key), last)
    capped = row_logits(call(query, key, softcap=2.0), last)
    np.testing.assert_allclose(capped, 2 * torch.tanh(plain / 2), atol=1e-6)
    windowed = row_logits(call(query, key, sliding_window=2, is_flash=True), last)
    assert torch.isinf(windowed[0, 0, 0]).tolist() == [True, True, True, False, False]
