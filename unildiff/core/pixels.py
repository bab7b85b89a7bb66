"""Conversion between 8-bit images and network inputs, and padding.

Axis letters: B batch, H/W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unildiff.utils.errors import UserError


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 images (B, 3, H, W) as float32 in [-1, 1], on their device."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] as uint8, rounded, as a PNG stores them.

    Args:
        images: values outside [-1, 1] are clamped.
        names: names of the B images, for the message.

    Raises:
        UserError: an image has values that are not finite, which would become black in 8 bits.
    """
    if not images.isfinite().all():  # waits for the GPU; no training step comes here
        broken = [index for index, image in enumerate(images) if not image.isfinite().all()]
        name = names[broken[0]] if names else f"image {broken[0] + 1} of {len(images)}"
        raise UserError(
            f"{name}: the restored image is not finite (NaN or infinity); use other weights, or compute in float32"
        )
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad (B, 3, H, W) at the right and bottom to multiples, by reflection, repeated where a side is too short."""
    for axis, side in ((3, images.shape[3]), (2, images.shape[2])):
        missing = -side % multiple
        while missing:
            step = min(missing, images.shape[axis] - 1)
            if step == 0:  # one pixel wide: nothing to reflect
                pad = [0, missing, 0, 0] if axis == 3 else [0, 0, 0, missing]
                images, missing = functional.pad(images, pad, mode="replicate"), 0
                break
            pad = [0, step, 0, 0] if axis == 3 else [0, 0, 0, step]
            images = functional.pad(images, pad, mode="reflect")
            missing -= step
    return images
