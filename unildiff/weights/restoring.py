"""Images in, restored images out: shared by ``restore``, the diffusers pipeline and ``analysis``.

Axis letters: B batch, H/W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8
from unildiff.data.images.stored import eight_bits
from unildiff.diffusion.sampler import Callback, SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.utils.keys import image_key


def restore_images(
    model: UniLDiff,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    settings: SamplingSettings,
    seed: int = 0,
    callback: Callback | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return restored images (B, 3, H, W), float32 in [-1, 1] on the model's device; all NaN where one is not finite.

    Args:
        model: in evaluation mode.
        images: sRGB images (H, W, 3) of one size, uint8 or uint16.
        captions: one per image, "" where the content is unknown.
        settings: steps, guidance, start, tiles.
        seed: seed of the noise, which depends on it and on the pixels (as 8 bits): the same as ``unildiff test`` draws.
        callback: called after each step, see ``sampler.Callback``.
        device: where to compute; None is where the model is.
    """
    weight = next(model.parameters())
    lq = torch.stack([to_unit_range(image) for image in images]).to(device or weight.device, weight.dtype)
    keys = [image_key(seed, eight_bits(image)) for image in images]
    with torch.inference_mode():
        return model.restore(lq, list(captions), keys, settings, callback=callback)


def to_unit_range(image: np.ndarray) -> Tensor:
    """Return uint8 or uint16 (H, W, 3) as float32 (3, H, W) in [-1, 1]."""
    half = np.float32(np.iinfo(image.dtype).max / 2)
    return torch.from_numpy(np.ascontiguousarray((image.astype(np.float32) / half - 1).transpose(2, 0, 1)))


def restore_image(
    model: UniLDiff,
    image: np.ndarray,
    caption: str = "",
    settings: SamplingSettings | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    device: torch.device | None = None,
    name: str = "image",
) -> Tensor:
    """Return a restored image (3, H, W) uint8; see :func:`restore_images` for the arguments.

    Raises:
        UserError: what the model makes of it is not finite; the message says ``name``.
    """
    restored = restore_images(model, [image], [caption], settings or SamplingSettings(), seed, callback, device)
    return to_uint8(restored, [name])[0]


def as_levels(restored: Tensor, name: str) -> np.ndarray:
    """Return one restored image (3, H, W) in [-1, 1] as float32 (H, W, 3) in 0..255, not rounded.

    Raises:
        UserError: it is not finite; the message says ``name``.
    """
    if not restored.isfinite().all():
        raise UserError(
            f"{name}: the restored image is not finite (NaN or infinity); use other weights, or compute in float32"
        )
    return ((restored.float() + 1.0) * 127.5).permute(1, 2, 0).contiguous().cpu().numpy()
