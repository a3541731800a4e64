"""Tiny models of several families with the processors that their checkpoints use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from bye_audit.model.loading import VisionLanguageModel, make_encoder
from conformance.specimen import VOCABULARY, ZOO
from conformance.zoo import load_all

# What the families' own templates have in common: turns, and a place for the image in them.
TEMPLATE = (
    "{{% for message in messages %}}{{{{ message['role'] }}}}: "
    "{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    "{{% endfor %}}{{% if message['role'] == 'assistant' %}}</s>{{% endif %}}\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}assistant: {{% endif %}}"
)


def open_family(name: str) -> VisionLanguageModel:
    """Open a tiny random model of a family behind its real processor."""
    load_all()
    model = ZOO[name]().model
    processor = _PROCESSORS[name](model.config)
    return VisionLanguageModel(
        model=model,
        processor=processor,
        encoder=make_encoder(model, processor),
        name=name,
        revision=None,
        digest="",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def _image_token(config: Any) -> int:
    token = getattr(config, "image_token_id", None)
    return int(config.image_token_index if token is None else token)


def _tokenizer(named: dict[str, tuple[str, int]], others: dict[str, int]) -> Any:
    """One token a letter, and special tokens where the model's config has them."""
    special = dict(named.values()) | others
    letters = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "\n"]
    free = (index for index in range(VOCABULARY) if index not in special.values())
    vocabulary = {letter: next(free) for letter in letters} | special
    inner = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        extra_special_tokens={name: text for name, (text, _) in named.items()},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _qwen(config: Any) -> Any:
    named = {
        "image_token": ("<|image_pad|>", config.image_token_id),
        "video_token": ("<|video_pad|>", config.video_token_id),
    }
    others = {
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
    }
    vision = config.vision_config
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48},
    )
    template = TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    return _Qwen(images, _tokenizer(named, others), template)


class _Qwen(transformers.Qwen2_5_VLProcessor):
    """Without the part for videos, which wants torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, images: Any, tokenizer: Any, template: str) -> None:
        super().__init__(images, tokenizer, None, chat_template=template)


def _llava_next(config: Any) -> Any:
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    return transformers.LlavaNextProcessor(
        images,
        _tokenizer({"image_token": ("<image>", _image_token(config))}, {}),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=TEMPLATE.format(image="<image>"),
        num_additional_image_tokens=1,
    )


def _gemma3(config: Any) -> Any:
    side = config.vision_config.image_size
    named = {
        "image_token": ("<image_soft_token>", _image_token(config)),
        "boi_token": ("<start_of_image>", config.boi_token_index),
        "eoi_token": ("<end_of_image>", config.eoi_token_index),
    }
    return transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": side, "width": side}),
        _tokenizer(named, {}),
        chat_template=TEMPLATE.format(image="<start_of_image>"),
        image_seq_length=config.mm_tokens_per_image,
    )


def _paligemma(config: Any) -> Any:
    side = config.vision_config.image_size
    images = transformers.SiglipImageProcessorPil(size={"height": side, "width": side})
    images.image_seq_length = (side // config.vision_config.patch_size) ** 2
    named = {"image_token": ("<image>", _image_token(config))}
    return transformers.PaliGemmaProcessor(
        images, _tokenizer(named, {}), chat_template=TEMPLATE.format(image="<image>")
    )


def _idefics3(config: Any) -> Any:
    side = config.vision_config.image_size
    others = {"<fake_token_around_image>": 290, "<end_of_utterance>": 291, "<global-img>": 292}
    return transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}
        ),
        _tokenizer({"image_token": ("<image>", _image_token(config))}, others),
        image_seq_len=(side // config.vision_config.patch_size // config.scale_factor) ** 2,
        chat_template=TEMPLATE.format(image="<image>"),
    )


def _internvl(config: Any) -> Any:
    side = config.vision_config.image_size[0]
    named = {
        "context_image_token": ("<IMG_CONTEXT>", _image_token(config)),
        "start_image_token": ("<img>", 297),
        "end_image_token": ("</img>", 296),
        "video_token": ("<video>", 295),
    }
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, crop_to_patches=True, max_patches=4
    )
    template = TEMPLATE.format(image="<IMG_CONTEXT>")
    return _InternVL(images, _tokenizer(named, {}), template, config.image_seq_length)


class _InternVL(transformers.InternVLProcessor):
    """Without the part for videos, which wants torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, images: Any, tokenizer: Any, template: str, num_tokens: int) -> None:
        super().__init__(
            images, tokenizer, None, image_seq_length=num_tokens, chat_template=template
        )


def _mllama(config: Any) -> Any:
    side = config.vision_config.image_size
    images = transformers.MllamaImageProcessorPil(
        size={"height": side, "width": side}, max_image_tiles=config.vision_config.max_num_tiles
    )
    tokenizer = _tokenizer({"image_token": ("<|image|>", _image_token(config))}, {})
    template = TEMPLATE.format(image="<|image|>")
    return transformers.MllamaProcessor(images, tokenizer, chat_template=template)


_PROCESSORS: dict[str, Callable[[Any], Any]] = {
    "qwen2_5_vl": _qwen,
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "mllama": _mllama,
}
FAMILIES = tuple(_PROCESSORS)
