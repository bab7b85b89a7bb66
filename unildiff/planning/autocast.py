"""CUDA's autocast rules for tensors that are planned on the CPU.

A machine without a GPU can run neither ``torch.autocast("cuda")`` nor a backward pass over fake CUDA tensors. The CPU's
autocast casts the same operations to lower precision (convolutions, products, attention), but not the same ones to
float32. Here the float32 list of CUDA is added. Source: PyTorch, "CUDA Ops that can autocast to float32",
https://docs.pytorch.org/docs/stable/amp.html
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOAT32 = ("layer_norm", "group_norm", "softmax", "log_softmax", "l1_loss", "mse_loss", "softplus")
"""Functions of ``torch.nn.functional`` on the list that the model uses or may use."""


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*arguments: Any, **options: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return function(*arguments, **options)
        return function(*map(_upcast, arguments), **{name: _upcast(value) for name, value in options.items()})

    return call


def _upcast(value: Any) -> Any:
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value


@contextmanager
def float32_list(gpu: bool) -> Iterator[None]:
    """Add CUDA's float32 list to the autocast of the CPU if the planned device is a GPU.

    Enter it around the backward pass too, which recomputes activations.
    """
    replaced: dict[str, Any] = {name: _in_float32(getattr(F, name)) for name in _FLOAT32} if gpu else {}
    with patch.multiple(F, **replaced) if gpu else nullcontext():
        yield
