"""Gradient magnitude similarity deviation (Xue et al. 2013), one value a picture; 0 is best.

Axis letters: B batch, H W pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol

_STABILITY = 170.0  # the paper's T on the scale 0..255


@torch.no_grad()
def gmsd(restored: Tensor, gt: Tensor, protocol: Protocol, dtype: torch.dtype = torch.float32) -> Tensor:
    """GMSD of each picture on its YIQ luma, halved in size first, as the paper's script does.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides crops and rounding; the colour is always YIQ luma.
        dtype: float32 or float64.

    Returns:
        (B,) float64, the standard deviation over pixels (population) of the gradient similarity.

    Raises:
        ValueError: Wrong shape, dtype or range.
    """
    check_pair(restored, gt)
    luma = replace(protocol, colour="yiq")
    maps = []
    for picture in (restored, gt):
        plane = prepare(picture, luma, dtype)
        odd = max(plane.shape[2] % 2, plane.shape[3] % 2)
        plane = functional.avg_pool2d(functional.pad(plane, (0, odd, 0, odd)), 2)
        maps.append(_gradient_magnitude(plane))
    x, y = maps
    similarity = (2 * x * y + _STABILITY) / (x * x + y * y + _STABILITY)
    return similarity.double().flatten(1).std(dim=1, correction=0)


def _gradient_magnitude(plane: Tensor) -> Tensor:
    """Prewitt gradient magnitude of (B, 1, H, W), edges padded with zeros."""
    padded = functional.pad(plane, (1, 1, 1, 1))
    rows = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    columns = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    across = (rows[..., 2:] - rows[..., :-2]) / 3
    down = (columns[:, :, 2:] - columns[:, :, :-2]) / 3
    return torch.sqrt(across * across + down * down)
