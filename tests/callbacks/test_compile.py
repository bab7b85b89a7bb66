"""Compiled regions, also in channels-last order, give the results of the plain model, each in one graph."""

import pytest
import torch

from tests.small import small_model
from unildiff.callbacks.compile import compile_regions, regions

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@torch.no_grad()
def test_every_region_is_one_graph_and_changes_nothing() -> None:
    model, names = small_model(), set(small_model().state_dict())
    features = model.encode_lq(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    context = model.context(features.deep, model.embed(["a cat"]), (32, 32))
    expected = model.unet(features.latents, torch.tensor([5]), context)[0]
    compile_regions(model, "eager")  # graph breaks would raise, and no code is generated
    assert set(model.state_dict()) == names
    assert all(region._compiled_call_impl is not None for region in regions(model))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=memory_format)
        found = model.unet(features.latents, torch.tensor([5]), context)[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.unet.rest.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
