"""Speed settings change the time, not the result, nor the names of weights."""

import pytest
import torch

from tests.small import sdxl_like_base, small_model
from unildiff.core.speed import compile_regions, use_channels_last
from unildiff.diffusion.sampler import SamplingSettings

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.parametrize("setting", ["channels_last", "compiled"])
def test_the_result_is_the_same(setting: str) -> None:
    model = small_model(sdxl_like_base())
    x = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    arguments = (x, ["a red cat"], [1], SamplingSettings(1, 5.0))
    expected, names = model.restore(*arguments), list(model.state_dict())
    if setting == "compiled":
        # Without graph breaks: a block that breaks would fail here.
        assert compile_regions(model, backend="eager", fullgraph=True) > 8
    else:
        use_channels_last(model)
        weight = model.unet.rest.conv_out.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.restore(*arguments), expected, atol=1e-4, rtol=1e-4)
    assert list(model.state_dict()) == names
