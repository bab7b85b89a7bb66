"""One picture in, one picture out: what `restore` and the diffusers pipeline share.

Axis letters: H/W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import image_tensor
from unildiff.data.datasets import image_key
from unildiff.diffusion.sampler import Callback, SamplingSettings


def restore_picture(
    model: UniLDiff,
    picture: np.ndarray,
    caption: str = "",
    settings: SamplingSettings | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    device: torch.device | None = None,
    name: str = "picture",
) -> Tensor:
    """Return a restored picture (3, H, W) uint8.

    Args:
        model: in evaluation mode.
        picture: (H, W, 3) uint8 RGB.
        caption: what is in the picture, "" if unknown.
        settings: steps, guidance, start; by default the paper's.
        seed: of the noise, which depends on it and on the pixels: the same as `unildiff test` draws.
        callback: called after each step, see ``sampler.Callback``.
        device: where to compute; None is where the model is.
        name: what to call the picture in a message.

    Raises:
        UserError: what the model makes of it is not finite.
    """
    weight = next(model.parameters())
    lq = to_unit(image_tensor(picture)[None].to(device or weight.device)).to(weight.dtype)
    with torch.inference_mode():
        restored = model.restore(
            lq, [caption], [image_key(seed, picture)], settings or SamplingSettings(), callback=callback
        )
    return to_uint8(restored, [name])[0]
