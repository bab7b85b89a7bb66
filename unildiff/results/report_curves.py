"""Training curves from TensorBoard's event files, drawn as SVG that needs no script."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

FloatArray = NDArray[np.float64]

_WIDTH, _HEIGHT = 360, 200  # the SVG's own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 26
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_MAX_POINTS = 400
_NO_CURVES = ("epoch", "hp_metric")  # Lightning writes them beside what was measured
_LOG_RATIO = 50.0  # our choice: from this ratio of largest to smallest on, the axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of one run: (N,) steps, ascending, and (N,) values, finite or not."""

    steps: FloatArray
    values: FloatArray


def event_files(folder: Path) -> list[Path]:
    """Return TensorBoard's event files anywhere below ``folder``, in the order of their names."""
    return sorted(folder.rglob("events.out.tfevents.*"))


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read every scalar below ``folder``.

    Where a run was resumed and a step was written twice, the later file's value stands. A file that a crash cut short
    gives what it holds.

    Returns:
        Curves by tag, sorted by tag; empty without event files.
    """
    points: dict[str, dict[int, float]] = {}
    for path in event_files(folder):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" and value.tag not in _NO_CURVES:
                    number = float(tensor_util.make_ndarray(value.tensor).item())
                    points.setdefault(value.tag, {})[event.step] = number
    curves = {}
    for tag in sorted(points):
        steps = sorted(points[tag])
        curves[tag] = Curve(np.array(steps, dtype=np.float64), np.array([points[tag][step] for step in steps]))
    return curves


def curves_html(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return one figure a tag, in which every run that has the tag is a line.

    Args:
        runs: curves by tag, by run.
    """
    tags = sorted({tag for curves in runs.values() for tag in curves})
    return "\n".join(
        _figure_html(tag, {run: curves[tag] for run, curves in runs.items() if tag in curves}) for tag in tags
    )


def _figure_html(tag: str, curves: Mapping[str, Curve]) -> str:
    legend = []
    for index, (run, curve) in enumerate(curves.items()):
        finite = np.isfinite(curve.values)
        text = html.escape(run)
        if finite.any():
            last = curve.values[finite][-1]
            text += f": {_short(last)} at step {curve.steps[finite][-1]:.0f}"
        if not finite.all():
            text += f", {int((~finite).sum())} values not finite"
        legend.append(f'<li><svg viewBox="0 0 24 8" aria-hidden="true">{_line("M0 4H24", index)}</svg>{text}</li>')
    title = html.escape(tag)
    return (
        f'<figure class="curve"><figcaption>{title}</figcaption>{_svg(tag, list(curves.values()))}'
        f"<ul>{''.join(legend)}</ul></figure>"
    )


def _svg(tag: str, curves: list[Curve]) -> str:
    kept = [_thinned(curve) for curve in curves]
    values = np.concatenate([curve.values for curve in kept])
    steps = np.concatenate([curve.steps for curve in kept])
    if not values.size:
        return "<p>no finite value</p>"
    logarithmic = bool(values.min() > 0 and values.max() / values.min() > _LOG_RATIO)
    low, high = _axis_range(values, logarithmic)
    first, last = float(steps.min()), float(steps.max())

    def x(steps: FloatArray) -> FloatArray:
        return _LEFT + (steps - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(values: FloatArray) -> FloatArray:
        positions = np.log10(values) if logarithmic else values
        return _HEIGHT - _BOTTOM - (positions - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    ticks = np.array(_ticks(low, high))
    ticks = 10**ticks if logarithmic else ticks
    for place, text in zip(y(ticks), map(_short, ticks), strict=True):
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{place + 3:.1f}" text-anchor="end">{text}</text>')
    for tick in (first, last) if last > first else (first,):
        anchor = "start" if tick == first else "end"
        place = x(np.array([tick]))[0]
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{tick:.0f}</text>')
    parts.append(f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">step</text>')
    for index, curve in enumerate(kept):
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in zip(x(curve.steps), y(curve.values), strict=True))
        if path:
            parts.append(_line(f"M{path}h0.1", index))  # the stroke at the end makes a single point visible
    scale = ", logarithmic" if logarithmic else ""
    label = html.escape(f"{tag} over steps {first:.0f} to {last:.0f}{scale}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _line(path: str, index: int) -> str:
    dashes = _DASHES[index % len(_DASHES)]
    return f'<path class="line line{index % 7}" stroke-dasharray="{dashes}" d="{path}"/>'


def _thinned(curve: Curve) -> Curve:
    """Finite points only; where there are more than the picture can show, means of neighbours."""
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite], curve.values[finite]
    if steps.size <= _MAX_POINTS:
        return Curve(steps, values)
    edges = np.linspace(0, steps.size, _MAX_POINTS + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, steps.size))
    return Curve(np.add.reduceat(steps, edges) / sizes, np.add.reduceat(values, edges) / sizes)


def _axis_range(values: FloatArray, logarithmic: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers in the range."""
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.3g}"
