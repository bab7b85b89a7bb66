"""Runs the training steps of all stages on fake tensors of a CUDA device; a tensor left on the CPU is an error.

Started by ``test_devices.py`` in its own process, which never frees its tensors: torch 2.14 without CUDA can crash when
it frees fake CUDA tensors. Backward passes need a real device.
"""

import gc
import os
import traceback
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.small import NETWORK
from tests.stages.steps import STAGES
from unildiff.planning.shapes import base_sizes, even_routing
from unildiff.planning.step import meta_stage

DEVICE = torch.device("cuda", 0)
kept: list[Any] = []


def make_step(kind: str) -> None:
    settings = {"latents": "one_step"} if kind == "decoder" else {}
    stage: Any = meta_stage(STAGES[kind], {"network": NETWORK, **settings}, base_sizes("tiny"), NETWORK)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, even_routing():
        for module in stage.modules():
            for name, parameter in module.named_parameters(recurse=False):
                made = nn.Parameter(torch.empty(parameter.shape, device=DEVICE), requires_grad=parameter.requires_grad)
                module._parameters[name] = made
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
        stage.trainer, stage._device = SimpleNamespace(global_step=1, log_every_n_steps=2, loggers=[]), DEVICE
        images = torch.empty(2, 3, 64, 64, dtype=torch.uint8, device=DEVICE)
        words = ["caption"] * 2
        batch = {"lq": images, "gt": images, "caption": words, "degradation": words, "name": words, "key": [0, 1]}
        loss = stage.train().training_step(batch, 0)
    kept.extend((mode, stage, loss))
    assert loss.device == DEVICE and loss.shape == (), loss
    print(kind, flush=True)


if __name__ == "__main__":
    gc.disable()
    code = 1
    try:
        for kind in STAGES:
            make_step(kind)
        code = 0
    except Exception:  # noqa: BLE001  # the parent prints it
        traceback.print_exc()
    finally:
        os._exit(code)
