"""The embedded model's parts, untrained: configuration, tokenizer, processor, chat template."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from bye_audit.mini import scenes

IMAGE_SIZE_PX = 72
PATCH_SIZE_PX = 8
NUM_IMAGE_TOKENS = (IMAGE_SIZE_PX // PATCH_SIZE_PX) ** 2
VOCABULARY_SIZE = 512

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
IMAGE, SYSTEM, USER, ASSISTANT = "<image>", "<|system|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
<|{{ message.role }}|>
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content if part.type == 'image' -%}<image>{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


def build_tokenizer(*, num_scenes: int = 3000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the world's own sentences; any other text falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS, IMAGE, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(world_sentences(num_scenes), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[AddedToken(t) for t in (IMAGE, SYSTEM, USER, ASSISTANT)],
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def world_sentences(num_scenes: int = 3000) -> Iterator[str]:
    """Give what is said of some scenes: enough for every word of the world to occur."""
    rng = np.random.default_rng(0)
    for _ in range(num_scenes):
        scene = scenes.draw_scene(rng, textures=("plain",))
        for exchange in (scenes.ask_caption(scene), *scenes.ask(scene, rng)):
            yield exchange.question
            yield exchange.answer


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Put the tokenizer beside a CLIP image processor that needs PIL only."""
    size = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size=size,
            do_center_crop=False,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_layers: int = 6,
    num_heads: int = 2,
    hidden_size: int = 128,
    intermediate_size: int = 320,
    num_vision_layers: int = 4,
) -> LlavaForConditionalGeneration:
    """Make the untrained LLaVA: CLIP tower, two-layer projector, Llama decoder with few heads."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=num_vision_layers,
        num_attention_heads=4,
        image_size=IMAGE_SIZE_PX,
        patch_size=PATCH_SIZE_PX,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model
