"""Metrics that need a trained network: LPIPS, DISTS, and no-reference ones through pyiqa (FID: fid.py).

Their weights are fetched by the packages that define them. Where that fails, or the package is missing, MetricUnavailable
says which metric and why: such a metric is left out, never replaced. All of them look at RGB pictures after the
protocol's crops and rounding, whatever colour the protocol measures PSNR on.
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

# pyiqa's names, variants as in the authors' scripts (peers.md 1.1: clipiqa+, maniqa-pipal).
_PYIQA = {"musiq": "musiq", "maniqa": "maniqa-pipal", "clipiqa": "clipiqa+", "niqe": "niqe"}


class MetricUnavailable(Exception):
    """A metric cannot be computed here: `name` says which, `reason` why, in one line."""

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
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # torch goes on for a line a weight
        raise MetricUnavailable(name, f"its weights could not be fetched ({reason})") from error


class NetworkScorer(nn.Module):
    """What a frozen network says of each picture.

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
        """The value of each picture.

        Args:
            restored: (B, 3, H, W), uint8 in 0..255 or floats in [0, 1].
            gt: The same shape; checked, and not looked at by metrics without a reference.

        Returns:
            (B,) float64.

        Raises:
            ValueError: Wrong shape, dtype or range.
        """
        check_pair(restored, gt)
        return self.judge(self._rgb(restored), self._rgb(gt)).reshape(-1).double()

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Ask the network; (B, 3, H, W) float32 RGB in [0, 1] each, one value a picture in any shape."""
        raise NotImplementedError

    def _rgb(self, picture: Tensor) -> Tensor:
        return prepare(picture, self._protocol, torch.float32).float() / 255


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
        """See :class:`NetworkScorer`; this network wants [-1, 1]."""
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


class NoReference(NetworkScorer):
    """MUSIQ, MANIQA, CLIP-IQA+ or NIQE of the restored picture alone, through pyiqa."""

    def __init__(self, name: str, protocol: Protocol) -> None:
        """Args: `musiq`, `maniqa`, `clipiqa` or `niqe`; the protocol.

        Raises:
            MetricUnavailable: pyiqa is not installed, or the weights cannot be fetched.
        """
        with loading(name):
            network = import_module("pyiqa").create_metric(_PYIQA[name], device=torch.device("cpu"))
        super().__init__(network, protocol)

    def judge(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`NetworkScorer`."""
        return self.network(restored)  # type: ignore[no-any-return]
