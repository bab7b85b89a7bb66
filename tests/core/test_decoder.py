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


LQ = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def skips_of(base: Base) -> list[torch.Tensor]:
    return LQEncoder(base.vae)(LQ)[1]


@pytest.mark.parametrize("make", [small_base, sdxl_like_base])
@pytest.mark.parametrize("routing", ["image", "window"])
@torch.no_grad()
def test_starts_as_the_vae_decoder_bit_for_bit(make: Callable[[], Base], routing: str) -> None:
    base = make()
    config = DetailConfig(width=8, kernel_sizes=(3, 5), routing=routing, window_size=8)  # type: ignore[arg-type]
    decoder = DetailDecoder(base.vae, config)
    images, routings = decoder(latents(), skips_of(base), LQ, KeyedNoise([1, 2]))
    assert torch.equal(images, decode_latents(base.vae, latents()))
    assert len(routings) == len(decoder.details) == len(base.vae.config.block_out_channels) - 1


@torch.no_grad()
def test_without_experts_it_stays_the_vae_decoder() -> None:
    base = small_base()
    decoder = DetailDecoder(base.vae, DetailConfig(kind="none"))
    images, routings = decoder(latents(), [], LQ)
    assert torch.equal(images, decode_latents(base.vae, latents()))
    assert routings == [] and len(decoder.details) == 0


@torch.no_grad()
def test_each_level_meets_its_skip() -> None:
    base = small_base()
    decoder = small_model(base).decoder
    skips = skips_of(base)
    plain, _ = decoder(latents(), skips, LQ)
    for level, skip in enumerate(skips):
        bumped = skip.clone()
        bumped[..., : skip.shape[2] // 4, : skip.shape[3] // 4] += 3
        given = [bumped if index == level else other for index, other in enumerate(skips)]
        changed, _ = decoder(latents(), given, LQ)
        difference = (changed - plain).abs().mean(dim=(0, 1))
        # Norms spread a little everywhere, but most of the change is where the skip was changed.
        assert difference[:8, :12].mean() > 3 * difference[16:, 24:].mean() > 0


@torch.no_grad()
def test_decoder_is_a_copy_and_routes_each_image_by_itself() -> None:
    base = small_base()
    decoder = small_model(base).decoder
    skips = skips_of(base)
    both, routings = decoder(latents(), skips, LQ)
    base.vae.decoder.conv_in.weight.zero_()
    for index in range(2):
        own = slice(index, index + 1)
        alone, routed = decoder(latents()[own], [skip[own] for skip in skips], LQ[own])
        torch.testing.assert_close(alone[0], both[index], atol=1e-5, rtol=0)
        for level, routing in enumerate(routings):
            assert torch.equal(routed[level].indices[0], routing.indices[index])


def test_kernels_of_the_config_become_the_experts() -> None:
    decoder = DetailDecoder(small_base().vae, NETWORK.detail)
    assert [len(detail.experts) for detail in decoder.details] == [2, 2]
