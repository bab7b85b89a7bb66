"""The metrics' names and properties; nothing heavy is imported here.

Names that are not listed are pyiqa's if it is installed; `pyiqa:NAME` is always pyiqa's metric of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal

from unildiff.metrics.protocols import unknown
from unildiff.utils.errors import UserError

_PREFIX = "pyiqa:"
_LOWER = "lower is better"
_PYIQA_OF_SETS = {"FID", "InceptionScore"}  # pyiqa's types that take folders


@dataclass(frozen=True)
class MetricInfo:
    """Properties of a metric that tables need.

    Attributes:
        title: Column head.
        higher_is_better: Whether larger values are better.
        digits: Decimals printed.
        kind: `pair`: compares with the ground truth. `alone`: uses the restored image only. `set`: one number for a set.
        pyiqa: pyiqa's name of the metric; "" if pyiqa does not compute it.
    """

    title: str
    higher_is_better: bool
    digits: int
    kind: Literal["pair", "alone", "set"] = "pair"
    pyiqa: str = ""


METRICS: dict[str, MetricInfo] = {
    "psnr": MetricInfo("PSNR", True, 2),
    "ssim": MetricInfo("SSIM", True, 4),
    "ms_ssim": MetricInfo("MS-SSIM", True, 4),
    "gmsd": MetricInfo("GMSD", False, 4),
    "lpips": MetricInfo("LPIPS (alex)", False, 4),
    "lpips_vgg": MetricInfo("LPIPS (vgg)", False, 4),
    "dists": MetricInfo("DISTS", False, 4),
    "fid": MetricInfo("FID", False, 2, "set"),
    "musiq": MetricInfo("MUSIQ", True, 2, "alone", "musiq"),
    "maniqa": MetricInfo("MANIQA (pipal)", True, 4, "alone", "maniqa-pipal"),
    "clipiqa": MetricInfo("CLIP-IQA+", True, 4, "alone", "clipiqa+"),
    "niqe": MetricInfo("NIQE", False, 2, "alone", "niqe"),
}


def metric_info(name: str) -> MetricInfo:
    """Return the properties of a metric of ours or of pyiqa's.

    Raises:
        UserError: No such metric; the nearest name is given.
    """
    if name in METRICS:
        return METRICS[name]
    theirs = name.removeprefix(_PREFIX)
    settings = pyiqa_settings(theirs)
    if settings is None:
        error = unknown("metric", name, METRICS)
        raise UserError(f"{error}; with pyiqa installed (pip install 'unildiff[iqa]') also any metric name of pyiqa's")
    if settings["metric_opts"]["type"] in _PYIQA_OF_SETS:
        raise UserError(f"metric {name!r} is pyiqa's metric of a set of images; use fid, or pyiqa itself")
    kind: Literal["pair", "alone"] = "pair" if settings.get("metric_mode") == "FR" else "alone"
    return MetricInfo(name, not settings.get("lower_better", False), 4, kind, theirs)


def recorded_metric(name: str, settings: Sequence[str] = ()) -> MetricInfo:
    """Return the properties of a metric in recorded scores, which may be pyiqa's also where pyiqa is not installed.

    Args:
        name: Name of its column.
        settings: What :func:`metric_settings` said when the scores were made.
    """
    lower = any(line.startswith(f"{name}: ") and line.endswith(_LOWER) for line in settings)
    return METRICS.get(name) or MetricInfo(name, not lower, 4)


def metric_settings(names: Sequence[str]) -> list[str]:
    """Return a line with the settings of each metric that pyiqa computes."""
    lines = []
    for name, theirs in ((name, metric_info(name).pyiqa) for name in names):
        if theirs and (settings := pyiqa_settings(theirs)):
            options = ", ".join(f"{key}={value}" for key, value in settings["metric_opts"].items())
            better = _LOWER if settings.get("lower_better", False) else "higher is better"
            about = f"pyiqa {version('pyiqa')} {theirs} ({options}), RGB after the protocol's crops"
            lines.append(f"{name}: {about}, {better}")
    return lines


def check_names(names: Sequence[str]) -> None:
    """Refuse a list of metrics that cannot be computed.

    Raises:
        UserError: No such metric (the nearest name is given), one listed twice, or an empty list.
    """
    if not names:
        raise UserError(f"no metric given; choose from {', '.join(METRICS)}")
    for name in names:
        metric_info(name)
        if list(names).count(name) > 1:
            raise UserError(f"metric {name!r} is listed twice; list it once")


def pyiqa_settings(name: str) -> dict[str, Any] | None:
    """Return pyiqa's default settings of a metric; None if pyiqa is not installed or has no metric of that name."""
    try:
        found = import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS.get(name)
    except ImportError:
        return None
    return None if found is None else dict(found)
