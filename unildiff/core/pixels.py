"""Between saved pictures and what the networks see.

Axis letters: B batch, H/W pixels.
"""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 pictures (B, 3, H, W) as float32 in [-1, 1], on their device."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1] as uint8, rounded: what a saved PNG holds."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
