"""Every switch changes the output, and the parameters that it turns on receive gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import NETWORK, small_base
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.diffusion.noise import KeyedNoise

FUSION = replace(NETWORK.fusion, patch_size=1)
DETAIL = replace(NETWORK.detail, kernel_sizes=(3, 5, 7))


def build(network: NetworkConfig) -> UniLDiff:
    """Return a model in which every parameter is a function of its name: equal names, equal weights.

    What starts at zero is drawn too, so that every part has an effect.
    """
    model = UniLDiff(small_base(), network)
    for name, parameter in model.named_parameters():
        if name.startswith(("unet.fusion.", "decoder.details.")):
            seed = sum(map(ord, name)) * 1000 + len(name)
            with torch.no_grad():
                drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter.copy_(drawn / max(1, parameter[0].numel()) ** 0.5)
    return model


def run(model: UniLDiff, captions: list[str] | None = None, size: int = 48) -> tuple[Tensor, Tensor]:
    """Return prediction and decoded image of four LQ images that differ in brightness and contrast."""
    noise = KeyedNoise([1, 2, 3, 4])
    spread = torch.tensor([0.1, 0.9, 0.4, 0.7]).view(4, 1, 1, 1)
    lq = noise.normal("lq", 3, size, size).tanh() * spread + spread - 0.5
    deep, skips = model.lq_encoder(lq)
    text = model.embed(captions or ["a red cat", "the table", "", "cat on table"])
    latents = noise.normal("latents", 4, size // 8, size // 8)
    prediction, _ = model.unet(latents, torch.tensor([10, 300, 600, 990]), model.context(deep, text, (size, size)))
    image, _ = model.decoder(latents, [skip.detach() for skip in skips], lq)
    return prediction, image


def network(use_text: bool = True, detail: dict[str, Any] | None = None, **fusion: Any) -> NetworkConfig:
    return NetworkConfig(replace(FUSION, **fusion), replace(DETAIL, **detail or {}), use_text)


# name: (switched off, switched on, output that changes, parameters that it turns on)
SWITCHES: dict[str, tuple[NetworkConfig, NetworkConfig, str, tuple[str, ...]]] = {
    "daff": (network(kind="plain"), network(), "prediction", ("unet.fusion.double_blocks.", "unet.fusion.time.")),
    "plain": (network(), network(kind="plain"), "prediction", ("unet.fusion.output.",)),
    "text attention": (network(text_attention=False), network(), "prediction", ("unet.fusion.text_attention.",)),
    "text": (network(use_text=False), network(), "prediction", ()),
    "rope": (network(rope=False), network(), "prediction", ()),
    "both outputs": (
        network(double_outputs="authors"),
        network(),
        "prediction",
        ("unet.fusion.double_blocks.0.latent.output.", "unet.fusion.double_blocks.0.latent.mlp."),
    ),
    "token experts": (
        network(),
        network(token_experts=2),
        "prediction",
        ("unet.fusion.double_blocks.0.lq.mlp.", "unet.fusion.double_blocks.0.latent.mlp."),
    ),
    "token top_k": (
        network(token_experts=2),
        network(token_experts=2, token_top_k=2),
        "prediction",
        ("unet.fusion.double_blocks.0.lq.mlp.experts.",),
    ),
    "more double blocks": (network(), network(num_double_blocks=2), "prediction", ("unet.fusion.double_blocks.1.",)),
    "more single blocks": (network(), network(num_single_blocks=2), "prediction", ("unet.fusion.single_blocks.1.",)),
    "single stream only": (
        network(),
        network(num_double_blocks=0),
        "prediction",
        ("unet.fusion.single_blocks.0.",),
    ),
    "double stream only": (
        network(),
        network(num_single_blocks=0),
        "prediction",
        ("unet.fusion.double_blocks.0.",),
    ),
    "merge in sequence": (
        network(),
        network(merge="sequence"),
        "prediction",
        ("unet.fusion.single_blocks.0.", "unet.fusion.double_blocks.0.latent.", "unet.fusion.text_attention."),
    ),
    "residual attention": (
        network(),
        network(kind="residual_attention"),
        "prediction",
        ("unet.fusion.residual_attention.", "unet.fusion.lq_in.", "unet.fusion.text_attention."),
    ),
    "scaled positions": (network(), network(rope_grid=3), "prediction", ()),  # the grid has 6 tokens a side
    "patches": (network(), network(patch_size=2), "prediction", ("unet.fusion.latent_in.", "unet.fusion.lq_in.")),
    "daem": (network(detail={"kind": "none"}), network(), "image", ("decoder.details.0.output.",)),
    "E": (
        network(detail={"kernel_sizes": (3,)}),
        network(detail={"top_k": 3}),
        "image",
        tuple(f"decoder.details.0.experts.{index}." for index in range(3)) + ("decoder.details.0.router.",),
    ),
    "k": (
        network(),
        network(detail={"top_k": 2}),
        "image",
        ("decoder.details.0.experts.", "decoder.details.1.experts."),
    ),
    "windows": (
        network(),
        network(detail={"routing": "window", "window_size": 4}),
        "image",
        ("decoder.details.0.router.", "decoder.details.1.router."),
    ),
    "positions": (
        network(detail={"routing": "window", "window_size": 1}),
        network(detail={"routing": "position"}),
        "image",
        ("decoder.details.0.router.", "decoder.details.1.experts."),
    ),
    "window size": (
        network(detail={"routing": "window", "window_size": 8}),
        network(detail={"routing": "window", "window_size": 4}),
        "image",
        (),
    ),
    "expert depth": (
        network(),
        network(detail={"expert_depth": 2, "top_k": 3}),
        "image",
        ("decoder.details.0.experts.0.1.",),
    ),
    "mix depth": (
        network(),
        network(detail={"mix_depth": 2}),
        "image",
        ("decoder.details.0.mix.1.",),
    ),
    "LQ norm": (
        network(),
        network(lq_norm="image"),
        "prediction",
        ("unet.fusion.lq_norm.weight",),
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_changes_the_output_and_trains_its_parameters(name: str) -> None:
    off, on, changed, turned_on = SWITCHES[name]
    model = build(on)
    with torch.no_grad():
        before = dict(zip(("prediction", "image"), run(build(off)), strict=True))
    after = dict(zip(("prediction", "image"), run(model), strict=True))
    assert (after[changed] - before[changed]).abs().max() > 1e-3
    after[changed].square().mean().backward()
    for prefix in turned_on:
        found = {key: value for key, value in model.named_parameters() if key.startswith(prefix)}
        assert found
        # Of experts, some may have no work with k < E; every other parameter must have a gradient.
        without = {key for key, value in found.items() if value.grad is None or not value.grad.any()}
        idle = {key for key in without if ".experts." in key}
        assert without == idle and len(idle) < len(found)


@torch.no_grad()
def test_without_text_captions_have_no_effect() -> None:
    model = build(network(use_text=False))
    assert torch.equal(run(model, ["cat", "red", "table", "the"])[0], run(model, [""] * 4)[0])
    with_text = build(network())
    assert not torch.equal(run(with_text, ["cat", "red", "table", "the"])[0], run(with_text, [""] * 4)[0])


@torch.no_grad()
def test_plain_injection_is_the_same_at_every_timestep() -> None:
    fusion = build(network(kind="plain")).unet.fusion
    lq, text = torch.randn(1, 16, 4, 4), torch.zeros(1, 12, 16)
    context = fusion.prepare(lq, text)
    first, second = (fusion(torch.randn(1, 8, 4, 4), torch.tensor([step]), context).residual for step in (1, 999))
    assert torch.equal(first, second)
    weight, bias = fusion.output.weight[:, :, 0, 0], fusion.output.bias
    expected = torch.einsum("oi,bihw->bohw", weight, lq) + bias[:, None, None]
    torch.testing.assert_close(first, expected)
