"""Metrics that need a trained network: LPIPS, DISTS, and everything that pyiqa provides (FID: fid.py).

The packages that define them download the weights. If that fails, or the package is missing, MetricUnavailable names the
metric and the reason, and the metric is left out, never replaced. All of them look at RGB images after the protocol's
crops and rounding, whatever colour the protocol measures PSNR on.
Axis letters: B batch, H W pixels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from importlib import import_module
from typing import Literal, Self

import torch
from torch import Tensor, nn

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol


class MetricUnavailable(Exception):
    """A metric cannot be computed on this machine; `name` and `reason` (in one line) say which and why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = " ".join(reason.split())
        super().__init__(f"{name}: {self.reason}")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn a missing package or weights that cannot be fetched into MetricUnavailable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision deprecates the argument that lpips uses
            yield
    except ImportError as error:
        raise MetricUnavailable(name, f"needs a package ({error}): pip install 'unildiff[iqa]'") from error
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError), broken download
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # torch adds a line per weight
        raise MetricUnavailable(name, f"its weights could not be fetched ({reason})") from error


class NetworkScorer(nn.Module):
    """The value that a frozen network gives each image.

    Args:
        network: A network of one or two RGB images in [0, 1].
        protocol: Decides crops and rounding.
        reference: Whether the network also looks at the ground truth.
        signed: Whether it expects images in [-1, 1].
    """

    def __init__(self, network: nn.Module, protocol: Protocol, reference: bool = True, signed: bool = False) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self._protocol = replace(protocol, colour="rgb")
        self._reference, self._signed = reference, signed

    def under(self, protocol: Protocol) -> Self:
        """Return the same network under another protocol."""
        other = copy(self)
        other._protocol = replace(protocol, colour="rgb")
        return other

    @torch.no_grad()
    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Return the value of each image, (B,) float64.

        Args:
            restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
            gt: The same shape. It is always checked, but metrics without a reference do not use it.

        Raises:
            ValueError: Wrong shape, dtype or range.
        """
        check_pair(restored, gt)
        images = [prepare(each, self._protocol, torch.float32).float() / 255 for each in (restored, gt)]
        images = [2 * each - 1 for each in images] if self._signed else images
        values: Tensor = self.network(*(images if self._reference else images[:1]))
        return values.reshape(-1).double()


def lpips_scorer(net: Literal["alex", "vgg"], protocol: Protocol) -> NetworkScorer:
    """Return LPIPS 0.1 (Zhang et al. 2018) with an AlexNet or VGG-16 backbone; 0 is best."""
    with loading("lpips" if net == "alex" else f"lpips_{net}"):
        import lpips

        return NetworkScorer(lpips.LPIPS(net=net, verbose=False), protocol, signed=True)


def dists_scorer(protocol: Protocol) -> NetworkScorer:
    """Return DISTS (Ding et al. 2020), torchmetrics' network; 0 is best. No resizing to 256 (our choice)."""
    with loading("dists"):
        from torchmetrics.functional.image.dists import DISTSNetwork

        return NetworkScorer(DISTSNetwork(), protocol)


def pyiqa_scorer(theirs: str, protocol: Protocol, name: str = "") -> NetworkScorer:
    """Return a metric of pyiqa with pyiqa's own settings.

    Args:
        theirs: pyiqa's name of the metric.
        protocol: Decides crops and rounding.
        name: Our name of it, for messages; by default pyiqa's.
    """
    with loading(name or theirs):
        network = import_module("pyiqa").create_metric(theirs, device=torch.device("cpu"))
        return NetworkScorer(network, protocol, reference=getattr(network, "metric_mode", "NR") == "FR")
