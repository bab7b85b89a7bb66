"""Metrics that need a trained network: LPIPS, DISTS, FID, and no-reference ones through pyiqa.

Their weights are fetched by the packages that define them. Where that fails, or the package is missing, MetricUnavailable
says which metric and why: such a metric is left out, never replaced. All of them look at RGB pictures after the
protocol's crops and rounding, whatever colour the protocol measures PSNR on.
Axis letters: B batch, H W pixels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance

from unildiff.evaluation.metrics import PictureMean
from unildiff.evaluation.pictures import check_pair, prepare, to_uint8
from unildiff.evaluation.protocols import Protocol, get_protocol

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
def _loading(name: str) -> Iterator[None]:
    """Turn a missing package or weights that cannot be fetched into MetricUnavailable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision deprecates the argument that lpips uses
            yield
    except ImportError as error:
        raise MetricUnavailable(name, f"needs a package ({error}): pip install 'unildiff[iqa]'") from error
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError), broken download
        raise MetricUnavailable(name, f"its weights could not be fetched ({error})") from error


class NetworkMetric(PictureMean):
    """Mean over pictures of what a frozen network says of each.

    Attributes:
        network: In evaluation mode, without gradients; it moves with the metric.
    """

    network: nn.Module

    def __init__(self, network: nn.Module, protocol: str | Protocol, **kwargs: Any) -> None:
        """Args: the network, the protocol, keyword arguments of torchmetrics.Metric."""
        super().__init__(protocol, **kwargs)
        self.network = network.eval().requires_grad_(False)

    def _rgb(self, picture: Tensor) -> Tensor:
        """The protocol's crop of (B, 3, H, W) as float32 RGB in [0, 1]."""
        return prepare(picture, replace(self.protocol, colour="rgb"), torch.float32).float() / 255


class LPIPS(NetworkMetric):
    """LPIPS 0.1 (Zhang et al. 2018) with an AlexNet or VGG-16 backbone; 0 is best."""

    higher_is_better = False

    def __init__(self, net: Literal["alex", "vgg"] = "alex", protocol: str | Protocol = "unildiff") -> None:
        """Args: the backbone, the protocol.

        Raises:
            MetricUnavailable: The backbone's weights cannot be fetched.
        """
        with _loading("lpips" if net == "alex" else f"lpips_{net}"):
            import lpips

            network = lpips.LPIPS(net=net, verbose=False)
        super().__init__(network, protocol)

    @torch.no_grad()
    def per_picture(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`PictureMean`; the network sees RGB in [-1, 1]."""
        check_pair(restored, gt)
        return self.network(self._rgb(restored) * 2 - 1, self._rgb(gt) * 2 - 1).flatten().double()  # type: ignore[no-any-return]


class DISTS(NetworkMetric):
    """DISTS (Ding et al. 2020), torchmetrics' network, VGG-16 backbone; 0 is best. No resizing to 256 (our choice)."""

    higher_is_better = False

    def __init__(self, protocol: str | Protocol = "unildiff") -> None:
        """Args: the protocol.

        Raises:
            MetricUnavailable: The backbone's weights cannot be fetched.
        """
        with _loading("dists"):
            from torchmetrics.functional.image.dists import DISTSNetwork

            network = DISTSNetwork()
        super().__init__(network, protocol)

    @torch.no_grad()
    def per_picture(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`PictureMean`."""
        check_pair(restored, gt)
        return self.network(self._rgb(restored), self._rgb(gt)).reshape(-1).double()  # type: ignore[no-any-return]


class NoReference(NetworkMetric):
    """MUSIQ, MANIQA, CLIP-IQA+ or NIQE of the restored picture alone, through pyiqa."""

    def __init__(self, name: str, protocol: str | Protocol = "unildiff") -> None:
        """Args: `musiq`, `maniqa`, `clipiqa` or `niqe`; the protocol.

        Raises:
            MetricUnavailable: pyiqa is not installed, or the weights cannot be fetched.
        """
        with _loading(name):
            network = import_module("pyiqa").create_metric(_PYIQA[name], device=torch.device("cpu"))
        super().__init__(network, protocol)
        self.higher_is_better = name != "niqe"

    @torch.no_grad()
    def per_picture(self, restored: Tensor, gt: Tensor) -> Tensor:
        """See :class:`PictureMean`; `gt` is checked and not looked at."""
        check_pair(restored, gt)
        return self.network(self._rgb(restored)).reshape(-1).double()  # type: ignore[no-any-return]


class FID(FrechetInceptionDistance):
    """Frechet inception distance between the restored pictures and the truths: one number for a set, not a mean.

    torchmetrics' implementation over torch-fidelity's Inception; few pictures give a meaningless number.
    """

    def __init__(self, protocol: str | Protocol = "unildiff", feature: int | nn.Module = 2048, **kwargs: Any) -> None:
        """Args: the protocol; layer or network as in torchmetrics; its keyword arguments.

        Raises:
            MetricUnavailable: torch-fidelity is not installed, or the weights cannot be fetched.
        """
        with _loading("fid"):
            super().__init__(feature=feature, **kwargs)
        self.protocol = get_protocol(protocol)

    def update(self, restored: Tensor, gt: Tensor) -> None:  # type: ignore[override]
        """Take in a batch: (B, 3, H, W) each, uint8 or floats in [0, 1]."""
        check_pair(restored, gt)
        for picture, real in ((gt, True), (restored, False)):
            planes = prepare(to_uint8(picture), replace(self.protocol, colour="rgb"), torch.float32)
            super().update(planes, real=real)
