"""Frechet inception distance, the one metric of a set rather than of images.

Axis letters: B batch, H W pixels.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from unildiff.metrics.perceptual import loading
from unildiff.metrics.preprocessing import check_pair, prepare, to_uint8
from unildiff.metrics.protocols import Protocol, get_protocol


class FID(FrechetInceptionDistance):
    """Frechet inception distance between the restored images and the ground truths: one number for a set, not a mean.

    torchmetrics' implementation over torch-fidelity's Inception; few images give a meaningless number.
    """

    def __init__(self, protocol: str | Protocol = "unildiff", feature: int | nn.Module = 2048, **kwargs: Any) -> None:
        """Args: the protocol; layer or network as in torchmetrics; its keyword arguments.

        Raises:
            MetricUnavailable: torch-fidelity is not installed, or the weights cannot be fetched.
        """
        with loading("fid"):
            super().__init__(feature=feature, **kwargs)
        self.protocol = get_protocol(protocol)

    def update(self, restored: Tensor, gt: Tensor) -> None:  # type: ignore[override]
        """Add a batch: (B, 3, H, W) each, uint8 or floats in [0, 1]."""
        check_pair(restored, gt)
        for image, real in ((gt, True), (restored, False)):
            planes = prepare(to_uint8(image), replace(self.protocol, colour="rgb"), torch.float32)
            super().update(planes, real=real)
