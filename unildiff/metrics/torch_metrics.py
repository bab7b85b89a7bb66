"""The per-picture metrics as torchmetrics: means of per-picture values, in constant memory, summed over ranks.

Axis letters: B batch, H W pixels.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import METRICS, make_scorer


class PictureMean(Metric):
    """Mean over pictures of a value that each picture has by itself.

    torchmetrics' own PSNR pools squared errors over pictures unless told otherwise, and its SSIM differs from
    scikit-image's by up to 0.003 (style.md 4c, speeds.md 3); neither is used.

    Attributes:
        protocol: What decides crops, colour and window.
        total: Sum of the values in the mean (float64).
        scored: How many there are.
        count: How many pictures went in, including those that the protocol leaves out of the mean.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    scored: Tensor
    count: Tensor

    def __init__(self, name: str, protocol: str | Protocol = "unildiff", **kwargs: Any) -> None:
        """Args: a per-picture metric of registry.METRICS; the protocol or its name; torchmetrics.Metric's arguments.

        Raises:
            UserError: No such metric or protocol.
            MetricUnavailable: The metric's weights cannot be had.
        """
        super().__init__(**kwargs)
        self.protocol = get_protocol(protocol)
        self._name = name
        self._scorer = make_scorer(name, self.protocol)  # a network among them moves with the metric
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scored", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Which way is up."""
        return METRICS[self._name].higher_is_better

    def per_picture(self, restored: Tensor, gt: Tensor) -> Tensor:
        """The value of each picture.

        Args:
            restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
            gt: The same shape.

        Returns:
            (B,) float64 on the device of the pictures.

        Raises:
            ValueError: Wrong shape, dtype or range, or a picture too small for the metric.
        """
        return self._scorer(restored, gt)

    def update(self, restored: Tensor, gt: Tensor) -> None:
        """Take in a batch: (B, 3, H, W) each, as in `per_picture`."""
        self._take(self.per_picture(restored, gt).to(self.total.device))

    def _take(self, values: Tensor) -> None:
        kept = values[values != torch.inf]
        self.total += kept.sum()
        self.scored += kept.numel()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean, float64; infinite if every picture was left out of it, NaN if there was none."""
        if self.scored == 0 and self.count > 0:
            return torch.full_like(self.total, torch.inf)
        return self.total / self.scored


class PSNR(PictureMean):
    """Mean PSNR in dB under a protocol; `identical` counts the pictures that equal their truth."""

    identical: Tensor

    def __init__(self, protocol: str | Protocol = "unildiff", **kwargs: Any) -> None:
        """Args: the protocol or its name; torchmetrics.Metric's arguments."""
        super().__init__("psnr", protocol, **kwargs)
        self.add_state("identical", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _take(self, values: Tensor) -> None:
        super()._take(values)
        self.identical += (values >= self.protocol.identical_psnr - 1e-9).sum()


class SSIM(PictureMean):
    """Mean SSIM under a protocol."""

    def __init__(self, protocol: str | Protocol = "unildiff", **kwargs: Any) -> None:
        """Args: the protocol or its name; torchmetrics.Metric's arguments."""
        super().__init__("ssim", protocol, **kwargs)
