"""Peak signal-to-noise ratio, one value per image.

Axis letters: B batch, C channels, H W pixels.
"""

import cv2
import torch
from torch import Tensor

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol


@torch.no_grad()
def psnr(restored: Tensor, gt: Tensor, protocol: Protocol, dtype: torch.dtype = torch.float32) -> Tensor:
    """PSNR of each image, 10 log10(L^2 / mse), mse over channels and pixels, accumulated in double precision.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides colour, crops, rounding and what is added to the mean squared error.
        dtype: Precision of luma and of float images.

    Returns:
        (B,) float64 in dB; for images that are identical `protocol.identical_psnr`, which may be infinite.

    Raises:
        ValueError: Wrong shape, dtype or range, or an image too small for the protocol's crops.
    """
    check_pair(restored, gt)
    x, y = prepare(restored, protocol, dtype), prepare(gt, protocol, dtype)
    if x.dtype != y.dtype:
        x, y = x.to(dtype), y.to(dtype)
    mse = _squared_error(x, y) / x[0].numel() * (protocol.data_range / 255) ** 2
    return 10 * torch.log10(protocol.data_range**2 / (mse + protocol.psnr_epsilon))


def _squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Sum of squared differences over (C, H, W): (B,) float64."""
    if x.device.type != "cpu":
        difference = x.double() - y.double() if x.dtype == torch.uint8 else (x - y).double()
        return difference.square().sum(dim=(1, 2, 3))
    # On the CPU OpenCV makes no temporaries; plane by plane, since it wants its rows contiguous.
    sums = [
        sum(cv2.norm(a.numpy(), b.numpy(), cv2.NORM_L2SQR) for a, b in zip(planes_x, planes_y, strict=True))
        for planes_x, planes_y in zip(x, y, strict=True)
    ]
    return torch.tensor(sums, dtype=torch.float64)
