"""Structural similarity in every flavour of the protocols, one value per image.

One definition (Wang et al. 2004, eq. 13, with the covariance convention and the treatment of edges as the protocol has
it) over two engines: OpenCV on strips of rows for CPU tensors (temporaries of the whole image cost page faults), shifted
sums of tensors elsewhere. Both filter s = x + y and d = x - y and their squares, four fields in place of the five of
x, y, xx, yy, xy:

    2 mx my = (ms^2 - md^2) / 2     mx^2 + my^2 = (ms^2 + md^2) / 2     2 cov = (vs - vd) / 2     vx + vy = (vs + vd) / 2

If x is close to y, only the small vd can lose digits to rounding, and float32 is enough for 1e-6; in strips for which it is
not enough, d is filtered again in double precision. The engine of tensors always uses double precision.
Axis letters: B batch, C channels, H W pixels, k window side.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import PROTOCOLS, Protocol, Window

Array = NDArray[Any]

_RANGE = 255.0  # prepared images are on this scale
_STRIP = 64  # rows filtered at once on the CPU: the temporaries stay in the second-level cache (measured)


def window_taps(window: Window) -> Array:
    """The window's one-dimensional weights, float64 (k,), summing to 1; the window is their outer product."""
    if window == "uniform7":
        return np.full(7, 1 / 7)
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class SSIMSettings:
    """A protocol's SSIM as numbers: the window's taps, what is done at edges, the two constants."""

    taps: Array
    uniform: bool
    replicate: bool
    clip_contrast: bool
    c1: float  # 2 C1
    c2: float  # 2 C2 over the covariance factor: the factor cancels elsewhere

    @classmethod
    def of(cls, protocol: Protocol) -> "SSIMSettings":
        """The settings of a protocol."""
        taps = window_taps(protocol.window)
        pixels = len(taps) ** 2
        factor = pixels / (pixels - 1) if protocol.sample_covariance else 1.0
        return cls(
            taps=taps,
            uniform=protocol.window == "uniform7",
            replicate=protocol.edges == "replicate",
            clip_contrast=protocol.clip_contrast,
            c1=2 * (0.01 * _RANGE) ** 2,
            c2=2 * (0.03 * _RANGE) ** 2 / factor,
        )


@torch.no_grad()
def ssim(restored: Tensor, gt: Tensor, protocol: Protocol, dtype: torch.dtype = torch.float32) -> Tensor:
    """SSIM of each image: the mean over channels of the mean over window positions.

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        protocol: Decides colour, crops, rounding, window, edges and covariances.
        dtype: float32 (within 1e-6 of float64, twice as fast) or float64; images that are not on the CPU are always
            filtered in float64.

    Returns:
        (B,) float64, at most 1.

    Raises:
        ValueError: Wrong shape, dtype or range, or an image too small for the window or the protocol's crops.
    """
    check_pair(restored, gt)
    protocol = replace(protocol, colour=protocol.ssim_colour or protocol.colour)
    x = prepare(restored, protocol, dtype, round_luma=protocol.ssim_rounds_luma)
    y = prepare(gt, protocol, dtype, round_luma=protocol.ssim_rounds_luma)
    if x.dtype != y.dtype:
        x, y = x.to(dtype), y.to(dtype)
    size = protocol.window_size
    if protocol.edges == "valid" and min(x.shape[-2:]) < size:
        raise ValueError(
            f"image of {x.shape[-2]}x{x.shape[-1]} (after crops) is smaller than the {size}x{size} SSIM window of "
            f"protocol {protocol.name!r}"
        )
    settings = SSIMSettings.of(protocol)
    if x.device.type == "cpu":
        depth = cv2.CV_64F if dtype == torch.float64 else cv2.CV_32F
        values = [
            float(np.mean([_plane(np.ascontiguousarray(a), np.ascontiguousarray(b), settings, depth) for a, b in pair]))
            for pair in (zip(p.numpy(), q.numpy(), strict=True) for p, q in zip(x, y, strict=True))
        ]
        return torch.tensor(values, dtype=torch.float64)
    similarity, _ = similarity_and_contrast(x.double(), y.double(), settings)
    return similarity.mean(dim=1)


def _plane(x: Array, y: Array, settings: SSIMSettings, depth: int) -> float:
    """Mean SSIM of two planes (H, W), uint8 or `depth`, on the scale 0..255."""
    radius = len(settings.taps) // 2
    if settings.replicate:
        x, y = (cv2.copyMakeBorder(z, radius, radius, radius, radius, cv2.BORDER_REPLICATE) for z in (x, y))
    height, width = x.shape[0] - 2 * radius, x.shape[1] - 2 * radius
    total = 0.0
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height) + 2 * radius)
        total += _strip(x[rows], y[rows], settings, depth)
    return total / float(height * width)


def _strip(x: Array, y: Array, settings: SSIMSettings, depth: int) -> float:
    """Sum of the SSIM map over the windows that lie within a strip of rows."""
    # Variances do not notice a shift; without the mean there is less to lose in E[z^2] - E[z]^2.
    mean_x, mean_y = round(cv2.mean(x)[0]), round(cv2.mean(y)[0])
    ms, vs = _moments(cv2.addWeighted(x, 1, y, 1, -mean_x - mean_y, dtype=depth), settings)
    md, vd = _moments(cv2.addWeighted(x, 1, y, -1, mean_y - mean_x, dtype=depth), settings)
    if depth == cv2.CV_32F and _cancels(md, vd, settings):
        double = cv2.addWeighted(x, 1, y, -1, mean_y - mean_x, dtype=cv2.CV_64F)
        md, vd = (moment.astype(np.float32) for moment in _moments(double, settings))
    ms += mean_x + mean_y
    md += mean_x - mean_y
    ms *= ms
    md *= md
    # OpenCV's sum with a constant is one pass where numpy's is two.
    luminance: Array = cv2.addWeighted(ms, 1, md, -1, settings.c1)
    contrast: Array = cv2.addWeighted(vs, 1, vd, -1, settings.c2)
    cv2.addWeighted(ms, 1, md, 1, settings.c1, dst=ms)
    cv2.addWeighted(vs, 1, vd, 1, settings.c2, dst=vs)
    if settings.clip_contrast:
        np.maximum(contrast, 0, out=contrast)
    luminance *= contrast
    ms *= vs
    luminance /= ms
    return float(luminance.sum())


def _moments(field: Array, settings: SSIMSettings) -> tuple[Array, Array]:
    """Mean and variance of a field (H, W) under each window inside of it; `field` is overwritten."""
    size, radius = len(settings.taps), len(settings.taps) // 2

    def smooth(values: Array) -> Array:
        if settings.uniform:
            smoothed = cv2.boxFilter(values, -1, (size, size))
        else:
            smoothed = cv2.sepFilter2D(values, -1, settings.taps, settings.taps)
        return smoothed[radius:-radius, radius:-radius]

    mean = smooth(field)
    variance = smooth(np.multiply(field, field, out=field))
    variance -= mean * mean
    return mean, variance


def _cancels(mean: Array, variance: Array, settings: SSIMSettings) -> bool:
    """Whether float32 would be off by more than some 1e-7 in the SSIM of a strip, from the moments of d in float32.

    Where images are flat but levels apart, E[d^2] - E[d]^2 is rounding alone, up to 6e-7 of E[d]^2 (measured), of one
    sign over the flat area, and goes into SSIM divided by at least c2. Textured areas average it out.
    """
    tolerated = 0.2 * settings.c2
    if cv2.norm(mean, cv2.NORM_L2SQR) < tolerated * mean.size:
        return False
    square = mean * mean
    return float(square[variance < 1e-4 * square].sum()) > tolerated * mean.size


def similarity_and_contrast(
    x: Tensor, y: Tensor, settings: SSIMSettings, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each plane, on any device.

    Args:
        x: (B, C, H, W) floats on the scale 0..255.
        y: The same.
        settings: Window and constants.
        dtype: Of the means; a device may have no float64.

    Returns:
        Two (B, C) tensors of `dtype`.
    """
    radius = len(settings.taps) // 2
    if settings.replicate:
        x, y = (torch.nn.functional.pad(z, (radius,) * 4, mode="replicate") for z in (x, y))
    taps = [float(tap) for tap in settings.taps]
    mean_x, mean_y = (z.mean(dim=(2, 3), keepdim=True) for z in (x, y))
    s, d = (x - mean_x) + (y - mean_y), (x - mean_x) - (y - mean_y)
    ms, md, vs, vd = _smooth(torch.stack((s, d, s * s, d * d)), taps)
    vs, vd = vs - ms * ms, vd - md * md
    ms, md = (ms + (mean_x + mean_y)).square() + settings.c1, (md + (mean_x - mean_y)).square()
    contrast = (vs + settings.c2 - vd) / (vs + settings.c2 + vd)
    if settings.clip_contrast:
        contrast = contrast.clamp(min=0)
    similarity = (ms - md) / (ms + md) * contrast
    return similarity.mean(dim=(2, 3), dtype=dtype), contrast.mean(dim=(2, 3), dtype=dtype)


def training_ssim(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean SSIM of a batch as a loss can use it: on any device, with gradients; Wang's 11x11 Gaussian window.

    Args:
        restored: (B, C, H, W) float32 in [0, 1], H and W at least 11.
        gt: The same.

    Returns:
        A scalar of the images' dtype, over window positions inside the image (our choice). torchmetrics' filters with a
        grouped convolution, whose three channels oneDNN pads to 16: for 8 images on one core, forward and backward, 2.3
        times the memory and 3.4 times the time.
    """
    settings = SSIMSettings.of(PROTOCOLS["daclip"])  # Gaussian, population covariance, windows inside, nothing clipped
    similarity, _ = similarity_and_contrast(_RANGE * restored, _RANGE * gt, settings, restored.dtype)
    return similarity.mean()


def _smooth(fields: Tensor, taps: list[float]) -> Tensor:
    """Filter the last two axes with the window, valid positions only.

    Sums of shifted views, not a convolution: cuDNN may round its inputs to TF32, 1e-3 of the value.
    """
    for axis in (-1, -2):
        length = fields.shape[axis] - len(taps) + 1
        total = fields.narrow(axis, 0, length) * taps[0]
        for start, tap in enumerate(taps[1:], 1):
            total.add_(fields.narrow(axis, start, length), alpha=tap)
        fields = total
    return fields
