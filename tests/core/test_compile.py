"""Modules that torch.compile traces as one graph, with the ``eager`` backend (graph breaks, no code generation)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, _dynamo

from tests.small import NETWORK, random_images, small_model
from unildiff.core import daem

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@torch.no_grad()
def test_fused_unet_is_one_graph() -> None:
    model, timesteps = small_model(), torch.tensor([1, 900])
    features = model.encode_lq(random_images(32, 32))
    context = model.context(features.deep, model.embed(["a cat", ""]), (32, 32))
    whole = torch.compile(model.unet, fullgraph=True, backend="eager")
    expected = model.unet(features.latents, timesteps, context)[0]
    torch.testing.assert_close(whole(features.latents, timesteps, context)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("to_pixels", [False, True])
@torch.no_grad()
def test_decoder_is_one_graph_but_for_the_choice_of_experts(to_pixels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many inputs an expert gets is known only at run time, so that idle ones cost nothing: one break per level.
    model = small_model(network=replace(NETWORK, detail=replace(NETWORK.detail, routing="window", to_pixels=to_pixels)))
    features = model.encode_lq(random_images(32, 32))
    shares: list[Tensor] = []
    if model.decoder.pixels is not None:
        model.decoder.pixels.brightness.register_forward_hook(lambda module, args, share: shares.append(share))
        model.decoder(features.latents, features.skips, features.lq)
        assert ((shares[0] > 0) & (shares[0] < 1)).all()  # otherwise the last operation would be multiplied by zero
        model.decoder.pixels.brightness._forward_hooks.clear()
    with pytest.raises(Exception, match="dispatch"):
        torch.compile(model.decoder, fullgraph=True, backend="eager")(features.latents, features.skips, features.lq)
    _dynamo.reset()
    monkeypatch.setattr(
        daem, "dispatch", lambda inputs, routing, experts: inputs[:, :-1]
    )  # the last channel marks the image
    whole = torch.compile(model.decoder, fullgraph=True, backend="eager")
    expected = model.decoder(features.latents, features.skips, features.lq)[0]
    image = whole(features.latents, features.skips, features.lq)[0]
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-5)
