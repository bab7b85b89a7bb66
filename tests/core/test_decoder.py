from collections.abc import Callable

import pytest
import torch

from tests.small import NETWORK, sdxl_like_base, small_base, small_model
from unildiff.core.base import Base
from unildiff.core.daem import DetailConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, decode_latents
from unildiff.diffusion.noise import KeyedNoise


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))


def skips_of(base: Base) -> list[torch.Tensor]:
    lq = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return LQEncoder(base.vae)(lq)[1]


@pytest.mark.parametrize("make", [small_base, sdxl_like_base])
@pytest.mark.parametrize("routing", ["image", "window"])
@torch.no_grad()
def test_starts_as_the_vae_decoder_bit_for_bit(make: Callable[[], Base], routing: str) -> None:
    base = make()
    config = DetailConfig(width=8, kernel_sizes=(3, 5), routing=routing, window_size=8)  # type: ignore[arg-type]
    decoder = DetailDecoder(base.vae, config)
    images, routings = decoder(latents(), skips_of(base), KeyedNoise([1, 2]))
    assert torch.equal(images, decode_latents(base.vae, latents()))
    assert len(routings) == len(decoder.details) == len(base.vae.config.block_out_channels) - 1


@torch.no_grad()
def test_without_experts_it_stays_the_vae_decoder() -> None:
    base = small_base()
    decoder = DetailDecoder(base.vae, DetailConfig(kind="none"))
    images, routings = decoder(latents(), [])
    assert torch.equal(images, decode_latents(base.vae, latents()))
    assert routings == [] and len(decoder.details) == 0


@torch.no_grad()
def test_each_level_meets_its_skip() -> None:
    base = small_base()
    decoder = small_model(base).decoder
    skips = skips_of(base)
    plain, _ = decoder(latents(), skips)
    for level, skip in enumerate(skips):
        bumped = skip.clone()
        bumped[..., : skip.shape[2] // 4, : skip.shape[3] // 4] += 3
        changed, _ = decoder(latents(), [bumped if index == level else other for index, other in enumerate(skips)])
        difference = (changed - plain).abs().mean(dim=(0, 1))
        # Norms carry a little everywhere, but most of it is where the skip was changed.
        assert difference[:8, :12].mean() > 3 * difference[16:, 24:].mean() > 0


@torch.no_grad()
def test_decoder_is_a_copy_and_routes_each_picture_alone() -> None:
    base = small_base()
    decoder = small_model(base).decoder
    skips = skips_of(base)
    both, routings = decoder(latents(), skips)
    base.vae.decoder.conv_in.weight.zero_()
    for index in range(2):
        alone, routed = decoder(latents()[index : index + 1], [skip[index : index + 1] for skip in skips])
        torch.testing.assert_close(alone[0], both[index], atol=1e-5, rtol=0)
        for level, routing in enumerate(routings):
            assert torch.equal(routed[level].indices[0], routing.indices[index])


def test_configs_kernels_are_the_experts() -> None:
    decoder = DetailDecoder(small_base().vae, NETWORK.detail)
    assert [len(detail.experts) for detail in decoder.details] == [2, 2]


@torch.no_grad()
def test_finest_level_reaches_the_picture_past_the_last_norm() -> None:
    base = small_base()
    config = DetailConfig(width=8, kernel_sizes=(3, 5), to_pixels=True)
    decoder, plain = DetailDecoder(base.vae, config), decode_latents(base.vae, latents())
    skips = skips_of(base)
    assert torch.equal(decoder(latents(), skips)[0], plain)  # starts as the VAE's decoder, as without it
    assert [detail.pixels is not None for detail in decoder.details] == [False, True]
    projection = decoder.details[-1].pixels
    assert projection is not None and projection.bias is not None
    projection.bias.fill_(0.25)  # brightness alone: the decoder's own last norm would take it away again
    torch.testing.assert_close(decoder(latents(), skips)[0], plain + 0.25, atol=1e-5, rtol=0)
