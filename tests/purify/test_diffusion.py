"""The diffusion purifier, with a tiny random model of diffusers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bye_audit.config import PurifyConfig
from bye_audit.errors import ConfigError, MissingDependencyError, ModelError, UnsupportedModelError
from bye_audit.purify.diffusion import DiffusionPurifier, hold_means
from bye_audit.purify.purifiers import PURIFIERS

needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None,
    reason="the extra bye-audit[zip] is not installed",
)
# diffusers warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def write_diffusion_model(folder: Path, *, channels: int = 3, **scheduler: Any) -> Path:
    """Write an unconditional model of 16 x 16 pixels that has learnt nothing."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler(**scheduler))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diffusion_model(tmp_path_factory.mktemp("diffusion"))


def draw(rng: np.random.Generator, rows: int = 16, columns: int = 16) -> np.ndarray:
    coarse = rng.integers(60, 200, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((rows // 4, columns // 4, 1), np.uint8)).astype(np.uint8)


@needs_diffusers
def test_block_means_are_the_images_and_the_rest_is_the_models(
    model_dir: Path, rng: np.random.Generator
) -> None:
    purifier = DiffusionPurifier.open(model_dir, device="cpu")
    image = draw(rng)
    (purified,) = purifier.purify([image])
    assert purified.dtype == np.uint8
    assert not np.array_equal(purified, image)
    means = [x.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3)) for x in (purified, image)]
    # A random model's detail reaches beyond what eight bits can show.
    assert np.abs(means[0] - means[1]).mean() < 12


@needs_diffusers
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_what_the_model_predicts_is_read_from_its_scheduler(
    tmp_path: Path, rng: np.random.Generator, prediction_type: str
) -> None:
    folder = write_diffusion_model(tmp_path / "model", prediction_type=prediction_type)
    purifier = DiffusionPurifier.open(folder, device="cpu")
    image = draw(rng)
    given = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    drawn = purifier._draw(given, torch.randn(given.shape))
    pooled = [torch.nn.functional.adaptive_avg_pool2d(x, 8) for x in (drawn, given)]
    torch.testing.assert_close(*pooled, rtol=0, atol=1e-5)


@needs_diffusers
def test_an_image_comes_out_the_same_alone_or_in_company(
    model_dir: Path, rng: np.random.Generator
) -> None:
    purifier = DiffusionPurifier.open(model_dir, device="cpu")
    images = [draw(rng, 32, 24), *(draw(rng) for _ in range(9))]
    together = purifier.purify(images)
    assert [image.shape for image in together] == [image.shape for image in images]
    again = DiffusionPurifier.open(model_dir, device="cpu").purify([images[3]])
    assert np.abs(again[0].astype(int) - together[3]).max() <= 1


@needs_diffusers
def test_another_model_is_another_purifier(model_dir: Path, tmp_path: Path) -> None:
    other = write_diffusion_model(tmp_path / "other", num_train_timesteps=500)
    settings = [dict(DiffusionPurifier.open(folder).settings) for folder in (model_dir, other)]
    assert settings[0]["purifier_digest"] != settings[1]["purifier_digest"]
    config = PurifyConfig(purifier="diffusion", purifier_model=str(model_dir))
    assert dict(PURIFIERS["diffusion"](config).settings) == settings[0]


@needs_diffusers
def test_what_is_no_model_of_rgb_images_is_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no folder unet and no scheduler") as caught:
        DiffusionPurifier.open(tmp_path)
    assert "save_pretrained" in caught.value.hint
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    with pytest.raises(ModelError, match="cannot be opened"):
        DiffusionPurifier.open(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no diffusion model of square RGB images"):
        DiffusionPurifier.open(write_diffusion_model(tmp_path / "latent", channels=4))


def test_without_diffusers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="needs diffusers") as caught:
        DiffusionPurifier.open(tmp_path)
    assert "pip install 'bye-audit[zip]'" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [{"purifier": "diffusion"}, {"purifier_model": "folder"}, {"purifier": "magic"}],
    ids=str,
)
def test_settings_that_purify_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PurifyConfig(**options)


def test_holding_means_twice_changes_nothing_more(rng: np.random.Generator) -> None:
    image, means = (torch.from_numpy(rng.normal(size=(2, 3, side, side))) for side in (12, 4))
    held = hold_means(image, means)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(held, 3), means)
    torch.testing.assert_close(hold_means(held, means), held)
    detail = image - hold_means(image, torch.zeros_like(means))
    torch.testing.assert_close(
        held - hold_means(image, torch.zeros_like(means)), held - image + detail
    )
