"""PSNR and SSIM against scikit-image's, on one core: time and agreement; and a whole scoring's memory.

Goal: PSNR and SSIM together in at most 0.25 of the time of scikit-image's Gaussian SSIM (float64, SSIM alone),
at 512x512 and at 1080x720.
"""

import time

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity

from benchmarks.models import photograph
from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.metrics.ssim import ssim

NAMES = ("moceir", "onerestore", "basicsr-y")
OPTIONS = {"data_range": 1.0, "channel_axis": 2, "gaussian_weights": True}


def rows(effort: Effort) -> list[Row]:
    return [row for size in (((96, 80),) if effort.small else ((512, 512), (1080, 720))) for row in at(*size, effort)]


def at(width: int, height: int, effort: Effort) -> list[Row]:
    gt = photograph(height, width)
    noise = np.random.default_rng(0).normal(0, 8, gt.shape)
    restored = np.clip(cv2.GaussianBlur(gt, (0, 0), 1.2) + noise, 0, 255).round().astype(np.uint8)
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (restored, gt))
    x_float, y_float = restored / 255, gt / 255
    planes = [np.ascontiguousarray(gt[..., channel], dtype=np.float32) for channel in range(3)]
    taps = cv2.getGaussianKernel(11, 1.5)

    def filters(channels: int) -> None:
        for plane in planes[:channels]:  # mean, mean, square, square, product
            for _ in range(5):
                cv2.sepFilter2D(plane, -1, taps, taps)

    def ours(name: str) -> None:
        psnr(x, y, PROTOCOLS[name])
        ssim(x, y, PROTOCOLS[name])

    seconds = alternate(
        {
            **{name: lambda name=name: ours(name) for name in NAMES},  # type: ignore[misc]
            "peer": lambda: structural_similarity(x_float, y_float, **OPTIONS),
            "rgb": lambda: filters(3),
            "luma": lambda: filters(1),
        },
        effort.rounds,
        time.process_time,
    )
    top, left = height % 16 // 2, width % 16 // 2
    window = np.s_[top : top + height // 16 * 16, left : left + width // 16 * 16]
    expected = structural_similarity(x_float[window], y_float[window], **OPTIONS)
    error = abs(ssim(x, y, PROTOCOLS["moceir"]).item() - expected)
    colours = {name: "rgb" if PROTOCOLS[name].colour == "rgb" else "luma" for name in NAMES}
    return [
        seconds_row(
            f"PSNR and SSIM, {width}x{height}, protocol {name}",
            {"ours": seconds[name], "peer": seconds["peer"], "limit": seconds[colours[name]]},
            peer_way="scikit-image's Gaussian SSIM alone, float64", limit_is="five Gaussian filters per channel, float32, alone",
            goal=Goal(0.25, "peer"), remark=f"SSIM differs by {error:.1e}" if name == "moceir" else "",
        )
        for name in NAMES
    ]  # fmt: skip
