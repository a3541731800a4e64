"""ZIP's own purifier: what averaging takes away is drawn anew by a diffusion model.

Shape legend: B images, C colours, S pixels along a side of the model's square images.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bye_audit.errors import MissingDependencyError, ModelError, UnsupportedModelError
from bye_audit.model.files import LOADING_FAULTS, first_line, folder_digest
from bye_audit.purify.purifiers import NUM_BLOCKS, PixelImage

NUM_STEPS = 20
_BATCH_SIZE = 8
_PARTS = ("unet", "scheduler")


class DiffusionPurifier:
    """Draws images that average to the given ones, with an unconditional diffusion model.

    Parameters
    ----------
    unet
        A ``UNet2DModel`` of diffusers: predicts noise, velocity or image from a noisy RGB image.
    predictor
        A scheduler of diffusers that knows what the model predicts.
    sampler
        A DDIM scheduler with the same noise that is given images.
    digest
        Of the model's files.

    Notes
    -----
    In every step the image that the model believes in is corrected so that its block means are
    those of the image that is purified: ``A+ y + (I - A+ A) x``, where ``A`` averages over blocks,
    ``A+`` spreads a mean over its block and ``y = A image``. So what averaging keeps is the
    image's and the rest is the model's. Departs from the paper: one degradation instead of two
    with and without colour, and deterministic steps (DDIM). The noise begins from the image's own
    bytes, so that a sample's score hangs on nothing else.

    References
    ----------
    Shi et al., "Black-box Backdoor Defense via Zero-shot Image Purification", NeurIPS 2023.
    """

    name = "diffusion"

    def __init__(self, unet: Any, predictor: Any, sampler: Any, digest: str) -> None:
        self._unet = unet
        self._predictor = predictor
        self._sampler = sampler
        self._digest = digest
        self._side = int(unet.config.sample_size)
        # Equal blocks, so that spreading a mean over its block is what averaging undoes.
        most = min(NUM_BLOCKS, max(1, self._side // 2))
        self._num_blocks = next(n for n in range(most, 0, -1) if self._side % n == 0)
        for scheduler in (predictor, sampler):
            scheduler.set_timesteps(NUM_STEPS)

    @classmethod
    def open(cls, folder: str | Path, *, device: str | None = None) -> DiffusionPurifier:
        """Open a model that diffusers has saved: a folder with ``unet`` and ``scheduler`` in it.

        Raises
        ------
        MissingDependencyError
            If diffusers is not installed.
        ModelError
            If there is no such folder, or not one with an unconditional model of RGB images.
        """
        require_diffusers()
        from diffusers import DDIMScheduler, UNet2DModel

        folder = Path(folder).expanduser()
        missing = [part for part in _PARTS if not (folder / part).is_dir()]
        if missing:
            raise UnsupportedModelError(
                f"{folder} is no diffusion model: it has no folder {' and no '.join(missing)}.",
                hint="Give a folder that DDPMPipeline.save_pretrained of diffusers has written.",
            )
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True)
            predictor = DDIMScheduler.from_pretrained(folder / "scheduler")
            sampler = DDIMScheduler.from_config(predictor.config, prediction_type="sample")
        except LOADING_FAULTS as error:
            raise UnsupportedModelError(
                f"{folder} cannot be opened as a diffusion model: {first_line(error)}",
                hint="It needs a UNet2DModel with safetensors weights and a scheduler's config.",
            ) from error
        if (unet.config.in_channels, unet.config.out_channels) != (3, 3) or not isinstance(
            unet.config.sample_size, int
        ):
            raise UnsupportedModelError(
                f"{folder} is no diffusion model of square RGB images.",
                hint="Latent and class-conditional models, and models that learn variances, "
                "cannot purify.",
            )
        digests = {part: folder_digest(folder / part) for part in _PARTS}
        digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
        return cls(unet.to(where).eval().requires_grad_(False), predictor, sampler, digest)

    @property
    def settings(self) -> Mapping[str, str]:
        """The model's digest and how it is used."""
        return {
            "num_blocks": str(self._num_blocks),
            "num_steps": str(NUM_STEPS),
            "purifier_digest": self._digest,
        }

    def purify(self, images: Sequence[PixelImage]) -> list[PixelImage]:
        """Purify images, as in `Purifier`.

        Raises
        ------
        ModelError
            If the model fails.
        """
        try:
            return [image for part in _batches(images) for image in self._purify_batch(part)]
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"The diffusion model cannot purify: {first_line(error)}",
                hint="Try --purifier classical, or another --purifier-model.",
            ) from error

    def _purify_batch(self, images: Sequence[PixelImage]) -> Iterator[PixelImage]:
        size = self._side, self._side
        squares = [
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
            for image in images
        ]
        # As the model knows them: in [-1, 1].
        given = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = torch.stack([self._noise_of(image) for image in images])
        drawn = self._draw(given.to(self._unet.device), noise.to(self._unet.device))
        levels = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        for image, square in zip(images, levels.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            size = image.shape[1], image.shape[0]
            resized = Image.fromarray(square).resize(size, Image.Resampling.BILINEAR)
            yield np.asarray(resized)

    def _noise_of(self, image: PixelImage) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((3, self._side, self._side), generator=generator)

    @torch.inference_mode()
    def _draw(self, given_BCSS: Tensor, noise_BCSS: Tensor) -> Tensor:
        """Sample images whose block means are the given ones'."""
        means = functional.adaptive_avg_pool2d(given_BCSS, self._num_blocks)
        noisy = noise_BCSS * self._sampler.init_noise_sigma
        for step in self._sampler.timesteps:
            predicted = self._unet(noisy, step).sample
            believed = self._predictor.step(predicted, step, noisy).pred_original_sample
            held = hold_means(believed, means)
            noisy = self._sampler.step(held, step, noisy).prev_sample
        return hold_means(noisy, means)


def hold_means(image_BCSS: Tensor, means: Tensor) -> Tensor:
    """Shift every block of an image so that it averages to the given mean.

    Parameters
    ----------
    image_BCSS
        Square images whose side is a multiple of the number of blocks.
    means
        (B, C, blocks, blocks).
    """
    error = means - functional.adaptive_avg_pool2d(image_BCSS, means.shape[-1])
    return image_BCSS + functional.interpolate(error, image_BCSS.shape[-2:], mode="nearest")


def require_diffusers() -> None:
    """Refuse to begin without diffusers.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise MissingDependencyError(
            "Purifying with --purifier diffusion needs diffusers, which is not installed.",
            hint="pip install 'bye-audit[zip]', or leave out --purifier for the classical one.",
        )


def _batches(images: Sequence[PixelImage]) -> Iterator[Sequence[PixelImage]]:
    return (images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE))
