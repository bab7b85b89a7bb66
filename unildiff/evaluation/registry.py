"""The metrics by the name that `--metrics` takes, and how they are made."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unildiff.errors import UserError
from unildiff.evaluation.metrics import GMSD, MSSSIM, PSNR, SSIM, PictureMean
from unildiff.evaluation.perceptual import DISTS, LPIPS, MetricUnavailable, NoReference
from unildiff.evaluation.protocols import Protocol


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

_MAKERS: dict[str, Callable[[Protocol], PictureMean]] = {
    "psnr": PSNR,
    "ssim": SSIM,
    "ms_ssim": MSSSIM,
    "gmsd": GMSD,
    "lpips": lambda protocol: LPIPS("alex", protocol),
    "lpips_vgg": lambda protocol: LPIPS("vgg", protocol),
    "dists": DISTS,
    "musiq": lambda protocol: NoReference("musiq", protocol),
    "maniqa": lambda protocol: NoReference("maniqa", protocol),
    "clipiqa": lambda protocol: NoReference("clipiqa", protocol),
    "niqe": lambda protocol: NoReference("niqe", protocol),
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
            near = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"unknown metric {name!r}: {hint}Known: {', '.join(METRICS)}")
        if list(names).count(name) > 1:
            raise UserError(f"metric {name!r} is asked for twice; name it once")


def load_metrics(names: Sequence[str], protocol: Protocol) -> tuple[dict[str, PictureMean], dict[str, str]]:
    """Make the per-picture metrics among the names (sets' metrics such as FID are passed over).

    Args:
        names: Keys of METRICS.
        protocol: What they measure under.

    Returns:
        The metrics by name in the order given, and the reason for each that is unavailable here.

    Raises:
        UserError: No such metric.
    """
    check_names(names)
    metrics: dict[str, PictureMean] = {}
    unavailable: dict[str, str] = {}
    for name in names:
        if METRICS[name].kind == "set":
            continue
        try:
            metrics[name] = _MAKERS[name](protocol)
        except MetricUnavailable as error:
            unavailable[name] = error.reason
    return metrics, unavailable
