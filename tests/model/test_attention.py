from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.conversations import converse, draw_conversations
from transformers.modeling_utils import AttentionInterface

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.attention import (
    AttentionProbe,
    decoder_attention_modules,
    image_attention,
)
from bye_audit.model.loading import VisionLanguageModel, load_model
from bye_audit.model.prompts import Batch
from bye_audit.model.row import last_row_logits
from bye_audit.model.spans import check_image_positions


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VisionLanguageModel:
    return load_model(str(tiny_vlm_dir))


def encode(vlm: VisionLanguageModel, count: int = 3, *, with_answers: bool = False) -> Batch:
    conversations = [
        *draw_conversations(count - 1),
        converse("A longer question than the others: what is where?", "red", *one_image()),
    ]
    encodings = [vlm.encoder.encode(c, with_answers=with_answers) for c in conversations]
    return vlm.encoder.collate(encodings, with_answers=with_answers)


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
        image = np.where(batch.image_BS.numpy(), row, 0.0)
        masses.append(image.sum(1))
        share = image / image.sum(1, keepdims=True)
        log = np.log(np.where(share > 0, share, 1.0))
        entropies.append(-(share * log).sum(1))
    return np.stack(entropies, 1), np.stack(masses, 1)


def test_entropy_and_mass_equal_those_of_eager_attention_maps(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path
) -> None:
    batch = encode(vlm)
    with AttentionProbe(vlm) as probe:
        reading = probe.read(batch)
    entropy, mass = reference_entropy(tiny_vlm_dir, batch)
    assert entropy.std() > 0.05, "a uniform reference would prove nothing"
    np.testing.assert_allclose(reading.entropy_BL, entropy, atol=1e-5)
    np.testing.assert_allclose(reading.image_mass_BL, mass, atol=1e-5)


def test_answers_behind_the_prompt_do_not_move_the_row(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm) as probe:
        alone = probe.read(encode(vlm))
        batch = encode(vlm, with_answers=True)
        followed, logits = probe.read_with_logits(batch, 1)
    np.testing.assert_allclose(followed.entropy_BL, alone.entropy_BL, atol=1e-5)
    assert logits.shape[:2] == (3, 1)


def test_a_padded_sample_reads_as_it_does_alone(vlm: VisionLanguageModel) -> None:
    conversation = draw_conversations(1)[0]
    encoding = vlm.encoder.encode(conversation, with_answers=False)
    with AttentionProbe(vlm) as probe:
        alone = probe.read(vlm.encoder.collate([encoding], with_answers=False))
        together = probe.read(encode(vlm))
    np.testing.assert_allclose(together.entropy_BL[0], alone.entropy_BL[0], atol=1e-5)
    np.testing.assert_allclose(together.head_entropy_BLH[0], alone.head_entropy_BLH[0], atol=1e-5)


def test_masses_of_system_image_and_text_add_up_to_all_attention(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm) as probe:
        reading = probe.read(encode(vlm))
    total = reading.system_mass_BLH + reading.image_mass_BLH + reading.text_mass_BLH
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert (reading.num_image_tokens_B == 81).all()


def test_attention_that_misses_the_image_is_not_a_number_rather_than_collapsed(
    vlm: VisionLanguageModel,
) -> None:
    batch = encode(vlm)
    blind = dataclasses.replace(batch, image_BS=torch.zeros_like(batch.image_BS))
    with AttentionProbe(vlm) as probe:
        reading = probe.read(blind)
    assert np.isnan(reading.entropy_BL).all()
    assert (reading.image_mass_BL == 0).all()


def test_closing_the_probe_leaves_no_trace(vlm: VisionLanguageModel) -> None:
    before = dict(AttentionInterface._global_mapping)
    with AttentionProbe(vlm) as probe:
        assert dict(AttentionInterface._global_mapping) != before
        probe.read(encode(vlm))
    assert dict(AttentionInterface._global_mapping) == before
    for module in decoder_attention_modules(vlm.base).values():
        assert not [name for name in vars(module) if "bye_audit" in name]


def test_models_with_eager_attention_only_are_read_alike(
    vlm: VisionLanguageModel, tiny_vlm_dir: Path
) -> None:
    eager = load_model(str(tiny_vlm_dir))
    eager.model.set_attn_implementation("eager")
    batch = encode(vlm)
    with AttentionProbe(eager) as probe:
        by_eager = probe.read(batch)
    with AttentionProbe(vlm) as probe:
        by_sdpa = probe.read(batch)
    np.testing.assert_allclose(by_eager.entropy_BL, by_sdpa.entropy_BL, atol=1e-5)


def test_a_subset_of_layers_reads_only_those(vlm: VisionLanguageModel) -> None:
    with AttentionProbe(vlm, [1]) as probe:
        reading = probe.read(encode(vlm))
    assert np.isfinite(reading.entropy_BL[:, 1]).all()
    assert np.isnan(reading.entropy_BL[:, [0, 2]]).all()


def test_maps_are_shares_on_the_grid_of_the_image(vlm: VisionLanguageModel) -> None:
    (found,) = image_attention(vlm, draw_conversations(1), [0, 2])
    assert found.attention_LT.shape == (2, 81)
    assert found.grid == (9, 9)
    np.testing.assert_allclose(found.attention_LT.sum(1), 1.0, atol=1e-5)
    with AttentionProbe(vlm) as probe:
        encoding = vlm.encoder.encode(draw_conversations(1)[0], with_answers=False)
        reading = probe.read(vlm.encoder.collate([encoding], with_answers=False))
    entropy = -(found.attention_LT * np.log(found.attention_LT)).sum(1)
    np.testing.assert_allclose(entropy, reading.entropy_BL[0, [0, 2]], atol=1e-4)


def test_image_features_elsewhere_than_image_tokens_are_refused(vlm: VisionLanguageModel) -> None:
    batch = encode(vlm)
    check_image_positions(vlm.base, batch.inputs, batch.image_BS)
    with pytest.raises(UnsupportedModelError, match="do not land") as caught:
        check_image_positions(vlm.base, batch.inputs, batch.image_BS.roll(1, dims=1))
    assert "-hf" in caught.value.hint


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("kind", ["causal", "boolean", "additive", "kept-keys"])
def test_one_row_of_logits_equals_the_full_map(
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
    expected = full.masked_fill(~allowed, -torch.inf)[:, :, 4].softmax(-1)
    found = last_row_logits(query, key, masks[kind], 4).softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_soft_caps_sinks_and_windows_are_honoured(rng: np.random.Generator) -> None:
    query = torch.from_numpy(rng.normal(size=(1, 1, 5, 4)).astype(np.float32)) * 5
    key = torch.from_numpy(rng.normal(size=(1, 1, 5, 4)).astype(np.float32))
    plain = last_row_logits(query, key, None, 4)
    capped = last_row_logits(query, key, None, 4, softcap=2.0)
    np.testing.assert_allclose(capped, 2 * torch.tanh(plain / 2), atol=1e-6)
    windowed = last_row_logits(query, key, None, 4, window=2)
    assert torch.isinf(windowed[0, 0]).tolist() == [True, True, True, False, False]
