"""How each metric of ``unildiff.metrics.names`` is created."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from unildiff.metrics.names import check_names, metric_info
from unildiff.metrics.perceptual import (
    MetricUnavailable,
    dists_scorer,
    lpips_scorer,
    pyiqa_scorer,
)
from unildiff.metrics.protocols import Protocol
from unildiff.metrics.psnr import psnr
from unildiff.metrics.ssim import ssim
from unildiff.metrics.structural import gmsd, ms_ssim
from unildiff.utils.errors import UserError

# (restored, gt), both (B, 3, H, W), uint8 in 0..255 or floats in [0, 1] -> (B,) float64
Scorer = Callable[[Tensor, Tensor], Tensor]


def _under(metric: Callable[..., Tensor], protocol: Protocol) -> Scorer:
    return partial(metric, protocol=protocol)


_MAKERS: dict[str, Callable[[Protocol], Scorer]] = {
    **{metric.__name__: partial(_under, metric) for metric in (psnr, ssim, ms_ssim, gmsd)},
    "lpips": partial(lpips_scorer, "alex"),
    "lpips_vgg": partial(lpips_scorer, "vgg"),
    "dists": dists_scorer,
}


def make_scorer(name: str, protocol: Protocol) -> Scorer:
    """Create a per-image metric.

    Raises:
        UserError: There is no such metric, or it is one of a whole set (FID).
        MetricUnavailable: A package or its network's weights cannot be loaded.
    """
    info = metric_info(name)
    if info.kind == "set":
        raise UserError(
            f"metrics: {name} is computed over a whole set, not per image; use `unildiff score` on the saved images"
        )
    return pyiqa_scorer(info.pyiqa, protocol, name) if info.pyiqa else _MAKERS[name](protocol)


def load_scorers(names: Sequence[str], protocol: Protocol) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Create the per-image metrics that are available on this machine.

    Returns:
        The metrics by name in the order given, and the reason for each that is unavailable.

    Raises:
        UserError: There is no such metric, or it is one of a whole set (FID).
    """
    if names:
        check_names(names)
    scorers: dict[str, Scorer] = {}
    unavailable: dict[str, str] = {}
    for name in names:
        try:
            scorers[name] = make_scorer(name, protocol)
        except MetricUnavailable as error:
            unavailable[name] = error.reason
    return scorers, unavailable
