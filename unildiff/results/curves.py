"""Training curves from TensorBoard's event files, one per event folder, drawn with matplotlib."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from unildiff.results.figures_style import LINES, PALETTE, new_figure

Curves = dict[str, "pd.Series[float]"]
"""By tag, the values of a run indexed by step in ascending order."""

_MAX_POINTS = 400
_NO_CURVES = ("epoch", "hp_metric")  # Lightning writes them beside the measurements
_LOG_RATIO = 50.0  # our choice: from this ratio of largest to smallest on, the axis is logarithmic
_GREY = "#7a828c"  # legible on white and on the report's dark background


def curves_by_folder(folder: Path, name: str) -> dict[str, Curves]:
    """Return the curves of each event folder below `folder`, named by `name` and the part of the path below it."""
    found = {}
    for place in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        if curves := _read(place):
            found["/".join(filter(None, (name, *place.relative_to(folder).parts)))] = curves
    return found


def _read(folder: Path) -> Curves:
    """Read every scalar of one run; a later file overrides a step of an earlier one, as after resuming."""
    points: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" and value.tag not in _NO_CURVES:
                    number = float(tensor_util.make_ndarray(value.tensor).item())
                    points.setdefault(value.tag, {})[event.step] = number
    return {tag: pd.Series(points[tag], dtype=float).sort_index() for tag in sorted(points)}


def drawn_curves(runs: Mapping[str, Curves]) -> list[tuple[str, str, list[str]]]:
    """Draw one figure per tag, with a line for every run that has the tag.

    Returns:
        For each tag: the tag, the SVG as a data URI, and a line of text per run.
    """
    tags = sorted({tag for curves in runs.values() for tag in curves})
    return [_drawn(tag, {run: curves[tag] for run, curves in runs.items() if tag in curves}) for tag in tags]


def _drawn(tag: str, curves: Curves) -> tuple[str, str, list[str]]:
    legend = []
    finite = {run: curve[np.isfinite(curve)] for run, curve in curves.items()}
    values = np.concatenate([curve.to_numpy() for curve in finite.values()])
    with new_figure(3.6, 2.0) as figure, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unildiff"}):
        axes = figure.subplots()
        for index, (run, curve) in enumerate(finite.items()):
            groups = (
                np.arange(len(curve)) * _MAX_POINTS // max(len(curve), _MAX_POINTS)
            )  # thinned to means of neighbours
            shown = curve.reset_index().groupby(groups).mean().to_numpy()
            line = axes.plot(*shown.T, marker="." if len(shown) == 1 else "", label=run)[0]
            line.set(color=PALETTE[index % len(PALETTE)], linestyle=LINES[index % len(LINES)])
            text = f"{run}: {curve.iloc[-1]:.3g} at step {curve.index[-1]}" if len(curve) else run
            if lost := len(curves[run]) - len(curve):
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
