"""Metrics that need a trained network: LPIPS, DISTS, and whatever pyiqa provides (FID: fid.py).

The packages that define them download the weights. Where that fails, or the package is missing, MetricUnavailable
names the metric and the reason, and the metric is left out, never replaced. All of them look at RGB images after the
protocol's crops and rounding, whatever colour the protocol measures PSNR on.
Axis letters: B batch, H W pixels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from unildiff.metrics.preprocessing import check_pair, prepare
from unildiff.metrics.protocols import Protocol


class MetricUnavailable(Exception):
    """A metric cannot be computed on this machine.

    Attributes:
        name: Name of the metric.
        reason: Why not, in one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        """Args: the metric's name and the reason."""
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

    Attributes:
        network: In evaluation mode, without gradients.
    """

    def __init__(self, network: nn.Module, protocol: Protocol) -> None:
        """Args: the network, the protocol."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self._protocol = replace(protocol, colour="rgb")

    def under(self, protocol: Protocol) -> Self:
        """The same network under another protocol."""
        other = copy(self)
        other._protocol = replace(protocol, colour="rgb")
        return other

    @torch.no_grad()
    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Return the value of each image.

        Args:
            restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
            gt: The same shape. It is checked, but metrics without a reference do not use it.

        Returns:
            (B,) float64.

        Raises:
            ValueError: Wrong shape, dtype or range.
        """
        check_pair(restored, gt)
        return self.judge(self._rgb(restored), self._rgb(gt)).reshape(-1).double()

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Run the network on (B, 3, H, W) float32 RGB in [0, 1] each; one value per image, in any shape."""
        raise NotImplementedError

    def _rgb(self, image: Tensor) -> Tensor:
        return prepare(image, self._protocol, torch.float32).float() / 255


class LPIPS(NetworkScorer):
    """LPIPS 0.1 (Zhang et al. 2018) with an AlexNet or VGG-16 backbone; 0 is best."""

    def __init__(self, net: Literal["alex", "vgg"], protocol: Protocol) -> None:
        """Args: the backbone, the protocol.

        Raises:
            MetricUnavailable: The backbone's weights cannot be fetched.
        """
        with loading("lpips" if net == "alex" else f"lpips_{net}"):
            import lpips

            network = lpips.LPIPS(net=net, verbose=False)
        super().__init__(network, protocol)

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`NetworkScorer`; this network expects [-1, 1]."""
        return self.network(restored * 2 - 1, gt * 2 - 1)  # type: ignore[no-any-return]


class DISTS(NetworkScorer):
    """DISTS (Ding et al. 2020), torchmetrics' network, VGG-16 backbone; 0 is best. No resizing to 256 (our choice)."""

    def __init__(self, protocol: Protocol) -> None:
        """Args: the protocol.

        Raises:
            MetricUnavailable: The backbone's weights cannot be fetched.
        """
        with loading("dists"):
            from torchmetrics.functional.image.dists import DISTSNetwork

            network = DISTSNetwork()
        super().__init__(network, protocol)

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`NetworkScorer`."""
        return self.network(restored, gt)  # type: ignore[no-any-return]


class Pyiqa(NetworkScorer):
    """A metric of pyiqa with pyiqa's own settings, on RGB in [0, 1]."""

    def __init__(self, theirs: str, protocol: Protocol, name: str = "") -> None:
        """Create the metric.

        Args:
            theirs: pyiqa's name of the metric.
            protocol: Decides crops and rounding.
            name: Our name of it, for messages; by default pyiqa's.

        Raises:
            MetricUnavailable: pyiqa is not installed, or the weights cannot be fetched.
        """
        with loading(name or theirs):
            network = import_module("pyiqa").create_metric(theirs, device=torch.device("cpu"))
        super().__init__(network, protocol)
        self._reference = getattr(network, "metric_mode", "NR") == "FR"

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`NetworkScorer`."""
        return self.network(restored, gt) if self._reference else self.network(restored)  # type: ignore[no-any-return]


def pyiqa_settings(name: str) -> dict[str, Any] | None:
    """Return pyiqa's default settings of a metric; None where it is not installed or has no metric of that name."""
    try:
        found = import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS.get(name)
    except ImportError:
        return None
    return None if found is None else dict(found)
