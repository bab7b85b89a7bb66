from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from tests.small import SMALL, random_images, sdxl_like_base, small_base
from unildiff.core.base import Base
from unildiff.core.encoders import LQEncoder, decode_latents, downscale_factor, encode_latents, unshuffle_factor


@pytest.mark.parametrize("make, factor", [(small_base, 2), (sdxl_like_base, 1)])
def test_lq_encoder_gives_the_vae_encoders_features(make: Callable[[], Base], factor: int) -> None:
    vae = make().vae
    assert unshuffle_factor(vae) == factor and downscale_factor(vae) == 8
    kept: dict[str, torch.Tensor] = {}
    vae.encoder.mid_block.register_forward_hook(lambda module, inputs, output: kept.update(deep=output))
    for index, block in enumerate(vae.encoder.down_blocks):
        if block.downsamplers is not None:
            block.downsamplers[0].register_forward_pre_hook(
                lambda module, inputs, index=index: kept.update({f"skip{index}": inputs[0]})
            )
    encoder = LQEncoder(vae)
    with torch.no_grad():
        vae.encode(F.pixel_unshuffle(random_images(), factor))
        deep, skips = encoder(random_images())
    assert torch.equal(deep, kept["deep"])
    assert len(skips) == len(kept) - 1
    assert all(torch.equal(skip, kept[f"skip{index}"]) for index, skip in enumerate(skips))
    assert [skip.shape[-1] for skip in skips] == [48 // factor // 2**index for index in range(len(skips))]


def test_lq_encoder_is_a_copy() -> None:
    vae = small_base().vae
    encoder = LQEncoder(vae)
    before, _ = encoder(random_images())
    with torch.no_grad():
        vae.encoder.conv_in.weight.zero_()
    assert torch.equal(encoder(random_images())[0], before)


def test_latents_are_diffusers_own_times_the_scaling_factor() -> None:
    vae = sdxl_like_base().vae
    noise = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        posterior = vae.encode(random_images()).latent_dist
        torch.testing.assert_close(encode_latents(vae, random_images()), posterior.mode() * 0.13025)
        sampled = posterior.mean + posterior.std * noise
        torch.testing.assert_close(encode_latents(vae, random_images(), noise), sampled * 0.13025)
        latents = encode_latents(vae, random_images())
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(posterior.mode()).sample)


def test_pixels_are_packed_and_unpacked_in_one_order() -> None:
    images = random_images()
    assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(images, 2), 2), images)
    assert decode_latents(small_base().vae, torch.zeros(1, 4, 4, 6)).shape == (1, 3, 32, 48)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_are_refused(channels: int) -> None:
    vae = AutoencoderKL(**SMALL["vae"] | {"in_channels": channels})
    with pytest.raises(ValueError, match=f"takes {channels} channels; expected 3, 12"):
        LQEncoder(vae)
