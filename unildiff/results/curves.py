"""Training curves from TensorBoard's event files, one per event folder, drawn with matplotlib."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from unildiff.results.figures_style import LINES, PALETTE, new_figure

FloatArray = NDArray[np.float64]

_MAX_POINTS = 400
_NO_CURVES = ("epoch", "hp_metric")  # Lightning writes them beside what was measured
_LOG_RATIO = 50.0  # our choice: from this ratio of largest to smallest on, the axis is logarithmic
_GREY = "#7a828c"  # legible on white and on the report's dark ground


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of one run: (N,) steps, ascending, and (N,) values, finite or not."""

    steps: FloatArray
    values: FloatArray


def event_files(folder: Path) -> list[Path]:
    """Return TensorBoard's event files anywhere below `folder`, in the order of their names."""
    return sorted(folder.rglob("events.out.tfevents.*"))


def curves_by_folder(folder: Path, name: str) -> dict[str, dict[str, Curve]]:
    """Return the curves of each event folder below `folder`, named by `name` and the part of the path below it."""
    found = {}
    for place in sorted({path.parent for path in event_files(folder)}):
        curves = _read(sorted(place.glob("events.out.tfevents.*")))
        if curves:
            found["/".join(filter(None, (name, *place.relative_to(folder).parts)))] = curves
    return found


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read every scalar of one run from all event files below its folder.

    Where the run was resumed and a step was written twice, the later file's value counts. A file that a crash truncated
    gives what it holds.

    Returns:
        Curves by tag, sorted by tag; empty without event files.
    """
    return _read(event_files(folder))


def _read(files: list[Path]) -> dict[str, Curve]:
    points: dict[str, dict[int, float]] = {}
    for path in files:
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


def drawn_curves(runs: Mapping[str, Mapping[str, Curve]]) -> list[tuple[str, str, list[str]]]:
    """Draw one figure per tag, in which every run that has the tag is a line.

    Args:
        runs: Curves by tag, by run.

    Returns:
        By tag: the tag, the SVG as a data URI, and a line of text per run.
    """
    tags = sorted({tag for curves in runs.values() for tag in curves})
    return [_drawn(tag, {run: curves[tag] for run, curves in runs.items() if tag in curves}) for tag in tags]


def _drawn(tag: str, curves: Mapping[str, Curve]) -> tuple[str, str, list[str]]:
    legend = []
    finite = [curve.values[np.isfinite(curve.values)] for curve in curves.values()]
    values = np.concatenate(finite)
    with new_figure(3.6, 2.0) as figure, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unildiff"}):
        axes = figure.subplots()
        for index, (run, curve) in enumerate(curves.items()):
            kept = _thinned(curve)
            style: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index % len(LINES)]}
            axes.plot(kept.steps, kept.values, marker="." if kept.steps.size == 1 else "", label=run, **style)
            text = f"{run}: {finite[index][-1]:.3g} at step {kept.steps[-1]:.0f}" if finite[index].size else run
            if lost := curve.values.size - finite[index].size:
                text += f", {lost} values not finite"
            legend.append(text)
        if values.size and values.min() > 0 and values.max() / values.min() > _LOG_RATIO:
            axes.set_yscale("log")
        axes.set_xlabel("step", color=_GREY)
        axes.tick_params(colors=_GREY)
        axes.spines[:].set_color(_GREY)
        if len(curves) > 1:
            axes.legend(labelcolor=_GREY, framealpha=0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return tag, "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), legend


def _thinned(curve: Curve) -> Curve:
    """Return the finite points; where there are more than a figure can show, means of neighbours."""
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite], curve.values[finite]
    if steps.size <= _MAX_POINTS:
        return Curve(steps, values)
    edges = np.linspace(0, steps.size, _MAX_POINTS + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, steps.size))
    return Curve(np.add.reduceat(steps, edges) / sizes, np.add.reduceat(values, edges) / sizes)
