"""Operations that devices lack: no float64, which Apple's MPS does not have."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.small import sdxl_like_base, small_base, small_model
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings


class DTypes(TorchDispatchMode):
    """Records the dtype of every tensor that an operation creates, and the operation's name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.dtype, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.seen.setdefault(leaf.dtype, str(func))
        return result


@pytest.mark.parametrize("tile_size", [None, 128])
@pytest.mark.parametrize("base", [small_base, sdxl_like_base])
def test_restoration_and_training_make_no_float64(base: Any, tile_size: int | None) -> None:
    model = small_model(base())
    x = torch.rand(1, 3, 64, 208) * 2 - 1
    with DTypes() as dtypes:
        model.restore(x, ["a red cat"], [1], SamplingSettings(2, 5.0, tile_size=tile_size))
        noise, features = KeyedNoise([1]), model.encode_lq(x[..., :64])
        context = model.context(features.deep, model.embed(["a cat"]), (64, 64))
        diffusion_loss(
            lambda latents, timesteps: model.unet(latents, timesteps, context)[0],
            features.latents,
            noise.normal("epsilon", *features.latents.shape[1:]),
            noise.integers("timestep", 1000),
            model.schedule,
        )
        model.decoder(features.latents, features.skips, features.lq, noise)
    assert torch.float32 in dtypes.seen
    assert torch.float64 not in dtypes.seen, dtypes.seen[torch.float64]
