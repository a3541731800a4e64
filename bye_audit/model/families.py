"""Models that see the image otherwise than as tokens of their prompt, and how.

Shape legend: B samples, S prompt positions, K keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bye_audit.errors import UnsupportedModelError
from bye_audit.model.decoder import (
    DecoderView,
    Inputs,
    attention_modules,
    forward_names,
    view_prompt_tokens,
)

_CROSS_ATTENTION = re.compile(
    r"(^|\.)(cross_attn|crossattention(\.self)?|encoder_attn|EncDecAttention"
    r"|encoder_decoder_attention\.attention)$"
)


def find_family(model: Any) -> Callable[[Any], DecoderView] | None:
    """Return the way to view this model's decoder, if it is one of these."""
    return _FAMILIES.get(model.config.model_type)


# --- attention to the image alone ----------------------------------------------------------------


def _view_mllama(model: Any) -> DecoderView:
    vision = model.config.vision_config
    num_features = (vision.image_size // vision.patch_size) ** 2 + 1

    def find_image(inputs: Inputs) -> Tensor:
        mask = inputs.get("cross_attention_mask")
        if mask is None:
            return torch.zeros(len(inputs["input_ids"]), 1, dtype=torch.bool)
        # What the last position sees stands for the prompt.
        tiles_BK: Tensor = mask[:, -1].flatten(1).bool()
        return tiles_BK.repeat_interleave(num_features, 1)

    # Beside a prompt with more images the same prompt is not quite the same.
    return replace(_view_cross_attention(model, find_image), takes_batches=False)


def _view_idefics(model: Any) -> DecoderView:
    config = model.config
    vision = config.vision_config
    num_features = (
        config.perceiver_config.resampler_n_latents
        if config.use_resampler
        else (vision.image_size // vision.patch_size) ** 2 + 1
    )

    def find_image(inputs: Inputs) -> Tensor:
        pictures_BK: Tensor = inputs["image_attention_mask"][:, -1].bool()
        return pictures_BK.repeat_interleave(num_features, 1)

    view = _view_cross_attention(model, find_image)
    step = config.cross_layer_interval
    return replace(view, modules={layer * step: m for layer, m in view.modules.items()})


def _view_captioner(model: Any) -> DecoderView:
    """Every key is a feature; how many there are is only known once the image was encoded."""

    def find_image(inputs: Inputs) -> Tensor:
        pixels = next(v for n, v in inputs.items() if "pixel" in n or "patches" in n)
        return torch.ones(len(pixels), 1, dtype=torch.bool)

    view = _view_cross_attention(model, find_image)
    return replace(
        view,
        covers_all_keys=True,
        find_rows=_last_decoder_position,
        count_queries=_decoder_length,
        prepare=_with_decoder_start(model),
    )


def _view_pix2struct(model: Any) -> DecoderView:
    def find_image(inputs: Inputs) -> Tensor:
        found: Tensor = inputs["attention_mask"].bool()
        return found

    return _view_encoder_decoder(model, find_image)


# --- attention to an encoder that has read image and text ----------------------------------------


def _view_encoded_tokens(model: Any) -> DecoderView:
    image_token_id = model.config.image_token_id

    def find_image(inputs: Inputs) -> Tensor:
        found: Tensor = inputs["input_ids"] == image_token_id
        return found

    return _view_encoder_decoder(model, find_image)


def _view_t5gemma2(model: Any) -> DecoderView:
    """Show the decoder's own tokens and, behind them, the encoder's sequence in one softmax."""
    image_token_id = model.config.image_token_id
    prepare = _with_decoder_start(model)

    def find_image(inputs: Inputs) -> Tensor:
        length = _decoder_length(prepare(inputs))
        return torch.nn.functional.pad(inputs["input_ids"] == image_token_id, (length, 0))

    return _view_encoder_decoder(model, find_image)


def _view_udop(model: Any) -> DecoderView:
    """Words that lie on a patch carry it; the patches that no word lies on follow the text."""
    grid = model.config.image_size // model.config.patch_size

    def find_image(inputs: Inputs) -> Tensor:
        centres = inputs["bbox"].float().unflatten(-1, (2, 2)).mean(-2)
        means = inputs["bbox"].float().mean(-1)
        carries_BS = (means != 0) & (means != 1)
        cell = (centres * grid).floor().clamp(0, grid - 1).long()
        tails = []
        for cells_S2 in cell:
            # A word without a box lies on the first patch, and takes it away all the same.
            taken = len(set(map(tuple, cells_S2.tolist())))
            tails.append(torch.arange(grid * grid) < grid * grid - taken)
        return torch.cat([carries_BS, torch.stack(tails).to(carries_BS.device)], 1)

    return _view_encoder_decoder(model, find_image)


def _view_blip2(model: Any) -> DecoderView:
    if model.config.use_decoder_only_language_model:
        return view_prompt_tokens(model)
    return _view_encoded_tokens(model)


# --- image positions that no token of the prompt tells -------------------------------------------


def _view_video_tokens(model: Any) -> DecoderView:
    return view_prompt_tokens(model, image_token_id=model.config.video_token_id)


def _view_kosmos2(model: Any) -> DecoderView:
    def find_image(inputs: Inputs) -> Tensor:
        mask = inputs.get("image_embeds_position_mask")
        if mask is None:
            return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        # Kosmos-2.5 marks the brackets around the image with -1.
        found: Tensor = mask == 1
        return found

    return _view(model, attention_modules(model.get_decoder()), find_image, is_generic=False)


# --- no such quantity ----------------------------------------------------------------------------


def _refuse(reason: str) -> Callable[[Any], DecoderView]:
    def refuse(model: Any) -> DecoderView:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no attention from a first answer token to an image: "
            f"{reason}.",
            hint="Use a model that answers in words what is asked about an image.",
        )

    return refuse


def _refuse_hard_coded(model: Any) -> DecoderView:
    raise UnsupportedModelError(
        f"{type(model).__name__} computes its attention by itself, where nobody can look on.",
        hint="Use a model whose attention passes through transformers' attention interface.",
    )


# --- parts ---------------------------------------------------------------------------------------


def _view_cross_attention(model: Any, find_image: Callable[[Inputs], Tensor]) -> DecoderView:
    decoder = model.get_decoder()
    modules = {
        module.layer_idx: module
        for name, module in decoder.named_modules()
        if _CROSS_ATTENTION.search(name) and isinstance(getattr(module, "layer_idx", None), int)
    }
    view = _view(model, modules, find_image, is_generic=False)
    return replace(view, has_prompt_axis=False)


def _view_encoder_decoder(model: Any, find_image: Callable[[Inputs], Tensor]) -> DecoderView:
    view = _view_cross_attention(model, find_image)
    if not view.modules:
        view = replace(view, modules=attention_modules(model.get_decoder()))
    return replace(
        view,
        find_rows=_last_decoder_position,
        count_queries=_decoder_length,
        prepare=_with_decoder_start(model),
    )


def _view(
    model: Any,
    modules: dict[int, Any],
    find_image: Callable[[Inputs], Tensor],
    *,
    is_generic: bool,
) -> DecoderView:
    text = model.config.get_text_config(decoder=True)
    return DecoderView(
        modules=modules,
        # Where one config serves both, the plain name means the encoder.
        num_layers=int(getattr(text, "decoder_layers", None) or text.num_hidden_layers),
        find_image=find_image,
        forward_names=forward_names(model),
        is_generic=is_generic,
    )


def _with_decoder_start(model: Any) -> Callable[[Inputs], Inputs]:
    """Let the decoder begin with its start token where the caller says nothing else."""
    text = model.config.get_text_config(decoder=True)
    named = (
        getattr(model.config, "decoder_start_token_id", None),
        getattr(text, "decoder_start_token_id", None),
        getattr(text, "bos_token_id", None),
    )
    start = next((int(token) for token in named if token is not None), 0)

    def prepare(inputs: Inputs) -> Inputs:
        if "decoder_input_ids" in inputs:
            return inputs
        num_samples = len(next(value for value in inputs.values() if isinstance(value, Tensor)))
        return {**inputs, "decoder_input_ids": torch.full((num_samples, 1), start)}

    return prepare


def _decoder_length(inputs: Inputs) -> int:
    ids = inputs.get("decoder_input_ids")
    return 1 if ids is None else int(ids.shape[1])


def _last_decoder_position(inputs: Inputs) -> Tensor:
    num_samples = len(next(value for value in inputs.values() if isinstance(value, Tensor)))
    return torch.full((num_samples, 1), _decoder_length(inputs) - 1)


def _alone(model: Any) -> DecoderView:
    """View a decoder in which a prompt is not the same in company.

    Numbers that run through the whole batch (Molmo 2, Hunyuan), patches packed along another axis
    (MiniCPM), or a selection of keys that padding moves (the others).
    """
    return replace(view_prompt_tokens(model), takes_batches=False)


_FAMILIES: dict[str, Callable[[Any], DecoderView]] = {
    "mllama": _view_mllama,
    "idefics": _view_idefics,
    "pix2struct": _view_pix2struct,
    "vision-encoder-decoder": _view_captioner,
    "pp_formulanet": _view_captioner,
    "florence2": _view_encoded_tokens,
    "t5gemma2": _view_t5gemma2,
    "udop": _view_udop,
    "blip-2": _view_blip2,
    "instructblip": _view_blip2,
    "instructblipvideo": _view_video_tokens,
    "kosmos-2": _view_kosmos2,
    "kosmos-2.5": _view_kosmos2,
    "molmo2": _alone,
    "hunyuan_vl": _alone,
    "minicpmv4_6": _alone,
    "minicpmv4_7": _alone,
    "minicpm_ocr": _alone,
    "mistral_large4": _alone,
    "minimax_m3_vl": _alone,
    "dots3_note": _alone,
    "git": _refuse_hard_coded,
    "blip": _refuse_hard_coded,
    "evolla": _refuse("what it looks at is a protein"),
    "pi0": _refuse("its answer is the movement of a robot"),
    "diffusion_gemma": _refuse("it writes all of its answer at once, from noise"),
}
