import pytest
import torch
from diffusers import AutoencoderKL
from sklearn.decomposition import PCA

from unildiff.core.encoders import encode_latents
from unildiff.core.sizes import TINY
from unildiff.core.tiny_start import start_from_patches


def coloured_images(count: int = 6) -> torch.Tensor:
    """Smooth images with colour, so that components differ clearly in spread."""
    noise = torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(80, 80), mode="bicubic").clamp(-2, 2) / 2


def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**TINY["vae"])


def as_patches(images: torch.Tensor) -> torch.Tensor:
    cells = torch.nn.functional.pixel_unshuffle(images, 8)
    return cells.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def test_latents_are_scikit_learns_principal_components() -> None:
    started, images = vae(), coloured_images()
    start_from_patches(started, images)
    expected = PCA(16, svd_solver="full").fit(as_patches(images).numpy()).transform(as_patches(images).numpy())
    latents = encode_latents(started, images).permute(0, 2, 3, 1).flatten(0, 2)
    for index in range(16):
        pair = torch.stack([latents[:, index], torch.from_numpy(expected[:, index]).float()])
        assert (
            abs(float(torch.corrcoef(pair)[0, 1])) > 0.995
        )  # not 1: the last norm divides by the deviation of its input


@torch.no_grad()
def test_absolute_brightness_reaches_the_latents() -> None:
    started, images = vae(), coloured_images()
    start_from_patches(started, images)
    flat = torch.cat([torch.full((1, 3, 64, 64), value) for value in (-0.6, 0.0, 0.6)])
    first = encode_latents(started, flat)[:, 0].mean(dim=(1, 2))
    steps = first.diff()
    assert float(steps.abs().min()) > 0.5 and torch.allclose(steps[0], steps[1], rtol=0.25)
    spread = encode_latents(started, images).std(dim=(0, 2, 3))
    assert float(spread[0]) == float(spread.max())
    assert bool((spread > 0.02).all())


def test_refuses_what_it_cannot_start() -> None:
    three = {"block_out_channels": (48, 64, 96), "norm_num_groups": 8}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    with pytest.raises(ValueError, match="two blocks"):
        start_from_patches(AutoencoderKL(**TINY["vae"] | three | types), coloured_images(1))
    with pytest.raises(ValueError, match="with 48 channels or more"):
        start_from_patches(AutoencoderKL(**TINY["vae"] | {"block_out_channels": (32, 96)}), coloured_images(1))
    with pytest.raises(ValueError, match="of different widths"):
        start_from_patches(AutoencoderKL(**TINY["vae"] | {"block_out_channels": (64, 64)}), coloured_images(1))
    with pytest.raises(ValueError, match="and attention"):
        start_from_patches(AutoencoderKL(**TINY["vae"] | {"mid_block_add_attention": True}), coloured_images(1))
    with pytest.raises(ValueError, match="have 0 components, but 40 are needed"):
        start_from_patches(vae(), torch.zeros(2, 3, 64, 64))
