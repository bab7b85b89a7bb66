"""Terms of the decoder stage's loss beside L1 and SSIM; our choice, off by default.

Axis letters: B batch, H/W pixels. Images are (B, 3, H, W) in [0, 1].
"""

from torch import Tensor
from torch.nn import functional as F

_FLOOR = 1e-4
_CELL = 16


def log_squared_error(image: Tensor, gt: Tensor) -> Tensor:
    """Return the mean over images of ln(MSE + 1e-4), which is PSNR up to a constant factor and sign.

    Images with small and large errors count alike, whereas L1 is dominated by low light and haze, whose error is large, and
    neglects rain, snow and clean images. The floor bounds the gradient near 40 dB.
    """
    squared = (image - gt).square().mean(dim=(1, 2, 3))
    return (squared + _FLOOR).log().mean()


def tone_error(image: Tensor, gt: Tensor) -> Tensor:
    """Return the mean absolute error of the means over cells of 16x16 pixels: brightness and colour without detail."""
    return F.avg_pool2d(image - gt, _CELL, ceil_mode=True).abs().mean()
