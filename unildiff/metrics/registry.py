"""The metrics by the name that `--metrics` takes, and how they are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from unildiff.metrics.gmsd import gmsd
from unildiff.metrics.ms_ssim import ms_ssim
from unildiff.metrics.perceptual import DISTS, LPIPS, MetricUnavailable, NoReference
from unildiff.metrics.protocols import Protocol, unknown
from unildiff.metrics.psnr import psnr
from unildiff.metrics.ssim import ssim
from unildiff.utils.errors import UserError

# (restored, gt), both (B, 3, H, W), uint8 in 0..255 or floats in [0, 1] -> (B,) float64
Scorer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MetricInfo:
    """What a table needs to know of a metric.

    Attributes:
        title: Column head.
        higher_is_better: Which way is up.
        digits: Decimals printed.
        kind: `pair`: compares with the truth. `alone`: looks at the restored picture only. `set`: one number for a set.
    """

    title: str
    higher_is_better: bool
    digits: int
    kind: Literal["pair", "alone", "set"] = "pair"


METRICS: dict[str, MetricInfo] = {
    "psnr": MetricInfo("PSNR", True, 2),
    "ssim": MetricInfo("SSIM", True, 4),
    "ms_ssim": MetricInfo("MS-SSIM", True, 4),
    "gmsd": MetricInfo("GMSD", False, 4),
    "lpips": MetricInfo("LPIPS (alex)", False, 4),
    "lpips_vgg": MetricInfo("LPIPS (vgg)", False, 4),
    "dists": MetricInfo("DISTS", False, 4),
    "fid": MetricInfo("FID", False, 2, "set"),
    "musiq": MetricInfo("MUSIQ", True, 2, "alone"),
    "maniqa": MetricInfo("MANIQA (pipal)", True, 4, "alone"),
    "clipiqa": MetricInfo("CLIP-IQA+", True, 4, "alone"),
    "niqe": MetricInfo("NIQE", False, 2, "alone"),
}

_MAKERS: dict[str, Callable[[Protocol], Scorer]] = {
    "psnr": lambda protocol: partial(psnr, protocol=protocol),
    "ssim": lambda protocol: partial(ssim, protocol=protocol),
    "ms_ssim": lambda protocol: partial(ms_ssim, protocol=protocol),
    "gmsd": lambda protocol: partial(gmsd, protocol=protocol),
    "lpips": partial(LPIPS, "alex"),
    "lpips_vgg": partial(LPIPS, "vgg"),
    "dists": DISTS,
    "musiq": partial(NoReference, "musiq"),
    "maniqa": partial(NoReference, "maniqa"),
    "clipiqa": partial(NoReference, "clipiqa"),
    "niqe": partial(NoReference, "niqe"),
}


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no metrics.

    Raises:
        UserError: No such metric (the nearest name is given), one twice, or none at all.
    """
    if not names:
        raise UserError(f"no metric asked for; choose from {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if list(names).count(name) > 1:
            raise UserError(f"metric {name!r} is asked for twice; name it once")


def make_scorer(name: str, protocol: Protocol) -> Scorer:
    """Make a per-picture metric.

    Raises:
        UserError: No such metric.
        ValueError: It is a number of a whole set (FID), not of pictures.
        MetricUnavailable: A package or its network's weights cannot be had.
    """
    check_names([name])
    if METRICS[name].kind == "set":
        raise ValueError(f"{name} is a number of a whole set, not of each picture: use `unildiff score`")
    return _MAKERS[name](protocol)


def load_scorers(names: Sequence[str], protocol: Protocol) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Make those per-picture metrics that can be had here.

    Returns:
        The metrics by name in the order given, and the reason for each that is unavailable.

    Raises:
        UserError: No such metric.
        ValueError: One is a number of a whole set (FID).
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
