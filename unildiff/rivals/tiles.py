"""Run a model on an image of any size: padded as the model needs it, large images in overlapping tiles.

Axis letters: B batch (1 here), H/W pixels.
"""

import logging

import torch
from torch import Tensor
from torch.nn import functional

from unildiff.core.tiling import UNIT, make_grid
from unildiff.rivals.load import Rival
from unildiff.utils.errors import UserError

_LOG = logging.getLogger(__name__)
_SMALLER = (1024, 512, 256, 128)  # tile sides to try where memory runs out


@torch.inference_mode()
def restore_image(rival: Rival, image: Tensor, tile_size: int | None = None) -> Tensor:
    """Restore one image.

    Args:
        rival: The model.
        image: (1, 3, H, W) float32 in [0, 1].
        tile_size: Side of the tiles in pixels; None: the whole image at once, and tiles where memory does not suffice.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        UserError: The model fails, or its result has another shape or is not finite.
    """
    sides = (tile_size,) if tile_size else (None, *(side for side in _SMALLER if side < max(image.shape[2:])))
    for side in sides:
        try:
            return _tiled(rival, image, side)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            _LOG.warning(
                "%s: out of memory with %s; trying smaller tiles",
                rival.name,
                f"tiles of {side}" if side else "the whole image",
            )
    raise UserError(f"--model {rival.name}: out of memory; give a smaller --tile_size, or another --device")


def _tiled(rival: Rival, image: Tensor, side: int | None) -> Tensor:
    height, width = image.shape[2:]
    padded = _padded(image, UNIT)
    grid = None if side is None else make_grid(padded.shape[2], padded.shape[3], side)
    if grid is None:
        return _run(rival, image)
    return grid.fuse(lambda tile: _run(rival, tile.cut(padded)))[..., :height, :width]


def _run(rival: Rival, image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    padded = _padded(image, rival.multiple_of)
    try:
        result = rival.restore(padded)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"--model {rival.name}: it fails on an image of {width}x{height} ({type(error).__name__}: {text})"
        ) from error
    if not isinstance(result, Tensor) or result.shape != padded.shape:
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UserError(
            f"--model {rival.name}: it returns {found} for an image of {tuple(padded.shape)}; they must be equal"
        )
    if not torch.isfinite(result).all():
        raise UserError(f"--model {rival.name}: its result for an image of {width}x{height} is not finite")
    return result.float().clamp(0, 1)[..., :height, :width]


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Extend the right and lower edge by reflection, or by repetition if the image is too small for that."""
    height, width = image.shape[2:]
    below, right = -height % multiple, -width % multiple
    if not (below or right):
        return image
    mode = "reflect" if below < height and right < width else "replicate"
    return functional.pad(image, (0, right, 0, below), mode=mode)
