"""Devices without a GPU: shapes on a fake CUDA device, and no float64, which Apple's MPS does not have."""

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.small import NETWORK, sdxl_like_base, small_base, small_model
from unildiff.core import moe
from unildiff.core.model import UniLDiff
from unildiff.core.moe import Routing
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings, euler_step


class DTypes(TorchDispatchMode):
    """Records the dtype of every tensor that an operation makes, and the operation's name."""

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


@contextmanager
def even_routing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose experts evenly: fake tensors hold no values to count."""

    def even(routing: Routing, experts: int) -> list[int]:
        share, rest = divmod(routing.indices.numel(), experts)
        return [share + (expert < rest) for expert in range(experts)]

    with monkeypatch.context() as patch:
        patch.setattr(moe, "assignment_counts", even)
        yield


def on_cuda(model: UniLDiff) -> UniLDiff:
    """Put fake weights on a CUDA device; ``Module.to`` cannot move fake tensors."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(
                    torch.empty(value.shape, dtype=value.dtype, device="cuda")
                )
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return model


@pytest.mark.parametrize("tile_size", [None, 128])
@pytest.mark.parametrize("base", [small_base, sdxl_like_base])
def test_all_tensors_of_a_step_meet_on_one_gpu(
    base: Any, tile_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors refuse to combine devices: whatever is left on the CPU fails here, without a GPU.

    In a process of its own that does not collect garbage: torch 2.14 without CUDA crashes when it frees fake CUDA tensors.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            gc.disable()
            one_step_on_a_fake_gpu(base, tile_size, monkeypatch)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def one_step_on_a_fake_gpu(base: Any, tile_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False), even_routing(monkeypatch), torch.no_grad():
        model = on_cuda(UniLDiff(base(), NETWORK).eval())
        x = torch.empty(2, 3, 64, 208, device="cuda")
        features = model.encode_lq(model.pad(x), tile_size, keep_skips=False)
        text = model.embed(["", ""]).joined(model.embed(["a red cat", ""]))
        _, guided = model._predictors(features, text)  # the sampler itself needs the schedule's values
        without, with_text = guided(features.latents, torch.full((2,), 500.0, device="cuda")).chunk(2)
        latents = euler_step(features.latents, without + 5.0 * (with_text - without), 11.0, 9.0, "epsilon")
        image = model.decode(latents, features, x.shape)
    assert image.device.type == "cuda" and image.shape == x.shape and image.dtype == torch.float32
