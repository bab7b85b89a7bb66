"""Multi-scale SSIM (Wang, Simoncelli, Bovik 2003), one value a picture.

No protocol's source says which MS-SSIM it would use; this is the most common one (pytorch_msssim's conventions): Gaussian
11x11 windows inside the picture, population covariance, five scales, means of the contrast term clipped at 0, 2x2 means
between scales with a row or column of zeros before odd sides, the product taken per channel. Our choice.
Axis letters: B batch, C channels, H W pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol
from unildiff.metrics.ssim import SSIMSettings, similarity_and_contrast

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # section 3.2 of the paper


@torch.no_grad()
def ms_ssim(restored: Tensor, gt: Tensor, protocol: Protocol, dtype: torch.dtype = torch.float32) -> Tensor:
    """MS-SSIM of each picture, on the protocol's colour and crops.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides colour, crops and rounding; the window is always the one named above.
        dtype: float32 or float64.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        ValueError: Wrong shape, dtype or range, or a side of 160 pixels or fewer (five scales need more).
    """
    check_pair(restored, gt)
    x, y = (prepare(picture, protocol, dtype).to(dtype) for picture in (restored, gt))
    if min(x.shape[-2:]) <= 160:
        raise ValueError(f"picture of {x.shape[-2]}x{x.shape[-1]} (after crops) is too small for MS-SSIM: 161 needed")
    settings = SSIMSettings.of(
        replace(protocol, window="gaussian11", edges="valid", sample_covariance=False, clip_contrast=False)
    )
    product = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        similarity, contrast = similarity_and_contrast(x, y, settings)
        last = scale == len(SCALE_WEIGHTS) - 1
        product *= (similarity if last else contrast).clamp(min=0) ** weight
        if not last:
            padding = (x.shape[2] % 2, x.shape[3] % 2)
            x, y = (functional.avg_pool2d(plane, 2, padding=padding) for plane in (x, y))
    return product.mean(dim=1)
