from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.small import NETWORK, draw, sdxl_like_base, small_base
from unildiff.core.base import Base
from unildiff.core.daff import FusionConfig
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.unet import FusedUNet, UNetContext

TIMESTEPS = torch.tensor([5, 951])
CAPTIONS = ["a red cat", ""]


def added_of(base: Base, pooled: Tensor | None) -> dict[str, Tensor] | None:
    if pooled is None:
        return None
    return {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 48, 0, 0, 64, 48]]).repeat(2, 1)}


@pytest.mark.parametrize("make", [small_base, sdxl_like_base])
@pytest.mark.parametrize("kind", ["daff", "plain"])
@torch.no_grad()
def test_starts_as_the_base_unet_bit_for_bit(make: Callable[[], Base], kind: str) -> None:
    base, latents = make(), draw(2, 4, 8, 6)
    text = base.text(CAPTIONS)
    expected = base.unet(latents, TIMESTEPS, text.tokens, added_cond_kwargs=added_of(base, text.pooled)).sample
    fusion = NETWORK.fusion if kind == "daff" else FusionConfig(kind="plain")
    model = UniLDiff(base, NetworkConfig(fusion, NETWORK.detail))
    context = model.context(draw(2, 16, 8, 6, seed=1), model.embed(CAPTIONS), (64, 48))
    prediction, fused = model.unet(latents, TIMESTEPS, context)
    assert torch.equal(prediction, expected)
    assert fused is not None and not fused.residual.any()
    if context.time_ids is not None:
        assert context.time_ids.tolist() == [[64, 48, 0, 0, 64, 48]] * 2


@torch.no_grad()
def test_to_diffusers_gives_the_base_back_whole() -> None:
    base, latents = small_base(), draw(2, 4, 8, 6)
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    text = base.text(CAPTIONS).tokens
    expected = base.unet(latents, TIMESTEPS, text).sample
    fused = FusedUNet(base.unet, NETWORK.fusion, lq_channels=16)
    assert "rest.conv_in.weight" not in fused.state_dict()  # every weight is stored once
    unet = fused.to_diffusers()
    assert unet is base.unet
    after = unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(unet(latents, TIMESTEPS, text).sample, expected)


@torch.no_grad()
def test_a_residual_enters_after_conv_in() -> None:
    base, latents = small_base(), draw(2, 4, 8, 6)
    text = base.text(CAPTIONS)
    fused = FusedUNet(base.unet, FusionConfig(kind="plain"), lq_channels=16)
    fused.fusion.output.bias.fill_(0.25)  # the residual is then 0.25 everywhere
    context = UNetContext(fused.fusion.prepare(draw(2, 16, 8, 6), text.tokens), text)
    prediction, _ = fused(latents, TIMESTEPS, context)
    unet = fused.to_diffusers()
    unet.conv_in.bias += 0.25
    torch.testing.assert_close(prediction, unet(latents, TIMESTEPS, text.tokens).sample)


@torch.no_grad()
def test_without_a_fusion_context_it_is_the_base() -> None:
    base, latents = small_base(), draw(2, 4, 8, 6)
    text = base.text(CAPTIONS)
    expected = base.unet(latents, TIMESTEPS, text.tokens).sample
    fused = FusedUNet(base.unet, FusionConfig(kind="plain"), lq_channels=16)
    fused.fusion.output.bias.fill_(9.0)
    prediction, output = fused(latents, TIMESTEPS, UNetContext(None, text))
    assert output is None and torch.equal(prediction, expected)
