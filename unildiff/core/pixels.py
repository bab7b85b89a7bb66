"""Between saved pictures and what the networks see.

Axis letters: B batch, H/W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unildiff.utils.errors import UserError


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 pictures (B, 3, H, W) as float32 in [-1, 1], on their device."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1] as uint8, rounded: what a saved PNG holds.

    Args:
        images: outside [-1, 1] they are clamped.
        names: of the B pictures, for the message.

    Raises:
        UserError: a picture has values that are not finite, which 8 bits would turn into black.
    """
    if not images.isfinite().all():  # a GPU is waited for: pictures, never a training step, come through here
        broken = [index for index, image in enumerate(images) if not image.isfinite().all()]
        name = names[broken[0]] if names else f"picture {broken[0] + 1} of {len(images)}"
        raise UserError(
            f"{name}: what the model made of it is not finite (NaN or infinity); give other weights, or compute "
            "in float32"
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
