"""Noise keyed by sample: it depends on the sample's key and the stream's name, never on the batch around it.

Axis letters: B batch, other letters as the caller names them.
One process with a global batch and several ranks with parts of it therefore train on the same noise (our choice).
"""

import torch
from torch import Tensor

from unildiff.utils.keys import sample_key


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on ``device``; through pinned memory, so that a GPU is not waited for."""
    shapes_only = type(values) is not Tensor  # fake tensors cannot be pinned
    if device.type != "cuda" or values.device.type != "cpu" or shapes_only:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class KeyedNoise:
    """Random tensors for one batch, drawn on the CPU so that every device sees the same values.

    Args:
        keys: int64 tensor or list of B sample keys.
        device: device to which the drawn tensors are moved.
    """

    def __init__(self, keys: Tensor | list[int], device: torch.device | str = "cpu") -> None:
        self.keys = [int(key) for key in keys]
        self.device = torch.device(device)

    def _generator(self, key: int, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(sample_key(key, stream))

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Return standard normal noise (B, *shape), float32."""
        rows = [torch.randn(shape, generator=self._generator(key, stream)) for key in self.keys]
        return to_device(torch.stack(rows), self.device)

    def uniform(self, stream: str) -> Tensor:
        """Return one number in [0, 1) per sample, (B,), float32."""
        rows = [torch.rand((), generator=self._generator(key, stream)) for key in self.keys]
        return to_device(torch.stack(rows), self.device)

    def integers(self, stream: str, high: int) -> Tensor:
        """Return one integer in [0, high) per sample, (B,), int64."""
        rows = [torch.randint(high, (), generator=self._generator(key, stream)) for key in self.keys]
        return to_device(torch.stack(rows), self.device)
