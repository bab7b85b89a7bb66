"""GMSD and MS-SSIM per image, through the packages that restoration papers use (piq, pytorch-msssim).

Axis letters: B batch, H W pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol

_SMALLEST = 161  # shorter sides leave no window at the fifth scale


@torch.no_grad()
def gmsd(restored: Tensor, gt: Tensor, protocol: Protocol) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2013, arXiv 1308.3052) of each image; 0 is best.

    The colour is always YIQ luma, rounded to integers, and an odd last row or column is dropped before the image is
    halved. Both follow pyiqa 0.1.16 (the result agrees to 1e-5); piq alone keeps fractions of luma, which changes the
    value by up to 2.4e-4, and pads odd sides with zeros, by up to 1.3e-3.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides the crops.

    Returns:
        (B,) float64.

    Raises:
        ValueError: Wrong shape, dtype or range.
    """
    import piq  # loads torchvision's models

    check_pair(restored, gt)
    luma = replace(protocol, colour="yiq")
    planes = (prepare(image, luma, torch.float64, round_luma=True).double() / 255 for image in (restored, gt))
    x, y = (plane[..., : plane.shape[-2] // 2 * 2, : plane.shape[-1] // 2 * 2] for plane in planes)
    values: Tensor = piq.gmsd(x, y, reduction="none")
    return values


@torch.no_grad()
def ms_ssim(restored: Tensor, gt: Tensor, protocol: Protocol) -> Tensor:
    """Multi-scale SSIM (Wang, Simoncelli, Bovik 2003) of each image, with the conventions of pytorch-msssim.

    It is measured on the protocol's colour; luma is rounded where the protocol rounds it for SSIM. pyiqa also sets
    negative contrast terms to zero pixel by pixel, where pytorch-msssim clips only their mean. We keep the latter, which
    most published values use; pyiqa's values are up to 1.1e-3 higher for strongly degraded images.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides colour, crops and rounding.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        ValueError: Wrong shape, dtype or range, or a side below 161 pixels (five scales need more).
    """
    import pytorch_msssim

    check_pair(restored, gt)
    protocol = replace(protocol, colour=protocol.ssim_colour or protocol.colour)
    images = (prepare(image, protocol, torch.float64, protocol.ssim_rounds_luma) for image in (restored, gt))
    x, y = (image.double() for image in images)
    if min(x.shape[-2:]) < _SMALLEST:
        raise ValueError(
            f"image of {x.shape[-2]}x{x.shape[-1]} (after crops) is too small for MS-SSIM: {_SMALLEST} needed"
        )
    taps = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) ** 2) / 4.5)  # its own are float32
    window = (taps / taps.sum()).expand(x.shape[1], 1, 1, 11)
    values: Tensor = pytorch_msssim.ms_ssim(x, y, data_range=255, size_average=False, win=window)
    return values
