"""Images side by side with a zoomed inset, for the paper's figures, and methods in the perception-distortion plane.

Letters: H W pixels. Images are (H, W, 3) uint8 RGB in 0..255. `out` is always a path without suffix.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from unildiff.data.images import read_rgb
from unildiff.results import TableId
from unildiff.results.figures_style import PAGE_WIDTH, PALETTE, look, new_figure, save_figure
from unildiff.results.runs import Run
from unildiff.results.specs import table_spec
from unildiff.utils.errors import UserError

Image = NDArray[np.uint8]

_INSET = 0.42  # side of the inset in units of the panel's shorter side
_ZOOMED = 0.2  # side of the zoomed window in units of the image's shorter side
_GAP, _LABEL, _TITLE, _CAPTION = 0.04, 0.17, 0.17, 0.13  # inches


def zoom_window(images: Sequence[Image]) -> tuple[int, int, int]:
    """Find the square in which the images' detail differs most, instead of choosing it by hand (our choice).

    Each image's local mean (over a square of the same side) is subtracted first, or low light and haze would select the
    brightest region, whatever it shows. The difference at a pixel is then the variance over the images, summed over
    colours; the square with the largest sum is chosen, the first in reading order if several are equal.

    Args:
        images: Versions of one image, all of one size.

    Returns:
        (top, left, side) in pixels, inside the image.

    Raises:
        ValueError: There is no image, or their sizes differ.
    """
    if not images or len({image.shape for image in images}) > 1:
        raise ValueError(f"need images of one size, got {[image.shape for image in images]}")
    side = max(1, round(_ZOOMED * min(images[0].shape[:2])))
    detail = [image - cv2.blur(image.astype(np.float64), (side, side)) for image in images]
    variance_HW = np.stack(detail).var(axis=0).sum(axis=-1)
    sums = np.pad(variance_HW, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.round(windows, 3).argmax()), windows.shape)
    return int(top), int(left), side


def comparison_figure(
    rows: Sequence[tuple[str, Mapping[str, Image]]],
    out: Path,
    captions: Mapping[tuple[str, str], str] = {},
    stacks: int = 1,
) -> list[Path]:
    """Draw images in a grid, one line per row and one column per name; each panel shows the zoomed window and its frame.

    Args:
        rows: (label, images by column name) of each row; a column that a row lacks stays empty.
        out: Path without suffix.
        captions: Text below a panel by (row label, column name), e.g. its PSNR.
        stacks: Number of stacks, side by side, into which the rows are divided.

    Returns:
        The PDF and the PNG.
    """
    columns = list(dict.fromkeys(column for _, images in rows for column in images))
    lines = math.ceil(len(rows) / stacks)
    panel = (PAGE_WIDTH - stacks * _LABEL) / (stacks * len(columns)) - _GAP
    caption = _CAPTION if captions else 0.0
    aspects = [max(image.shape[0] / image.shape[1] for image in images.values()) for _, images in rows]
    heights = [panel * min(1.25, max(aspects[line::lines])) for line in range(lines)]
    total = _TITLE + sum(heights) + lines * (_GAP + caption)
    with new_figure(PAGE_WIDTH, total) as figure:
        figure.set_layout_engine("none")
        for index, (label, images) in enumerate(rows):
            stack, line = divmod(index, lines)
            x0 = stack * (PAGE_WIDTH / stacks)
            y = total - _TITLE - sum(heights[: line + 1]) - line * (_GAP + caption)
            middle = (y + heights[line] / 2) / total
            figure.text((x0 + _LABEL / 2) / PAGE_WIDTH, middle, label, rotation=90, ha="center", va="center", size=7)
            window = zoom_window(list(images.values()))
            for position, column in enumerate(columns):
                x = x0 + _LABEL + position * (panel + _GAP)
                axes = figure.add_axes((x / PAGE_WIDTH, y / total, panel / PAGE_WIDTH, heights[line] / total))
                axes.set_axis_off()
                if line == 0:
                    centre = (x + panel / 2) / PAGE_WIDTH
                    figure.text(centre, 1 - _TITLE / 2 / total, column, ha="center", va="center", size=7)
                if column in images:
                    _draw_panel(axes, images[column], window)
                text = captions.get((label, column), "")
                axes.text(0.5, -0.02, text, transform=axes.transAxes, ha="center", va="top", size=5.5)
        return save_figure(figure, out)


def _draw_panel(axes: Axes, image: Image, window: tuple[int, int, int]) -> None:
    """Draw an image, the frame of the window, and the window enlarged in the corner farthest from it."""
    top, left, side = window
    height, width = image.shape[:2]
    axes.imshow(image)
    size = _INSET * min(height, width)
    inset_left = 0.0 if left + side / 2 > width / 2 else width - size
    inset_top = 0.0 if top + side / 2 > height / 2 else height - size
    inset = axes.inset_axes((inset_left, inset_top, size, size), transform=axes.transData)
    inset.imshow(image[top : top + side, left : left + side])
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[:].set(visible=True, color=PALETTE[1], linewidth=0.9)
    for colour, line_width in (("white", 1.6), (PALETTE[1], 0.8)):  # the white edge keeps it visible everywhere
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=colour, linewidth=line_width)
        )


def table_figure(table_id: TableId, run: Run, out: Path, others: Mapping[str, Path] | None = None) -> list[Path]:
    """Draw a scored run's images, one line per degradation of a table: input, other methods, the run, ground truth.

    Each line shows the image whose PSNR is nearest to the degradation's median.

    Args:
        table_id: The table whose columns become the lines.
        run: A run that kept its images, see :meth:`Run.image`.
        out: Path without suffix.
        others: By label, folders of other methods' images, ``<degradation>/<name>.png`` in each.

    Returns:
        The PDF and the PNG.

    Raises:
        UserError: The run has no images for the figure, or another method's folder lacks one.
    """
    spec = table_spec(table_id, [run])
    rows: list[tuple[str, Mapping[str, Image]]] = []
    captions: dict[tuple[str, str], str] = {}
    for column, key in zip(spec.columns, spec.keys(run.counts), strict=True):
        chosen = median_image(run, key)
        if chosen is None:
            continue
        scores = run.scores.iloc[chosen]
        panels: dict[str, Path | None] = {"input": run.image("input", chosen)}
        panels |= {label: folder / str(key) / f"{scores['name']}.png" for label, folder in (others or {}).items()}
        panels |= {run.label: run.image("restored", chosen), "ground truth": run.image("truth", chosen)}
        rows.append((column.title, {label: read_rgb(path) for label, path in panels.items() if path}))
        for label, metric in (("input", "input_psnr"), (run.label, "psnr")):
            if metric in run.scores:
                captions[column.title, label] = f"{scores[metric]:.2f} dB"
        captions[column.title, "ground truth"] = scores["name"]
    if not rows:
        raise UserError(f"no images to show: {run.folder} kept none of {spec.title}; test again and save images")
    return comparison_figure(rows, out, captions, stacks=2 if len(rows) > 6 else 1)  # two stacks, to fit a page


def median_image(run: Run, degradation: str | None) -> int | None:
    """Return the index of the kept image whose PSNR is nearest to the degradation's median; None without any."""
    if degradation is None or "psnr" not in run.scores:
        return None
    psnr = run.scores.loc[run.scores["degradation"] == degradation, "psnr"]
    psnr = psnr[np.isfinite(psnr)]
    psnr = psnr[[run.image("restored", index) is not None for index in psnr.index]]
    return None if psnr.empty else int((psnr - psnr.median()).abs().idxmin())


def perception_distortion_figure(points: Mapping[str, tuple[float, float]], out: Path, perception: str) -> list[Path]:
    """Draw methods in the plane of distortion and perception; the lower right corner is the best.

    Args:
        points: By method, PSNR in dB and perceptual distance (lower is better).
        out: Path without suffix.
        perception: Name of the perceptual distance.

    Returns:
        The PDF and the PNG.
    """
    many = len(points) > 4  # their legend would cover the points
    with new_figure(PAGE_WIDTH / 2 + 1.6 * many, 2.4) as figure:
        axes = figure.subplots()
        for index, (label, (psnr, distance)) in enumerate(points.items()):
            colour, marker = look(index)
            axes.scatter([psnr], [distance], s=24, color=colour, marker=marker, label=label, zorder=3)
        axes.set(xlabel="PSNR (dB), higher is better", ylabel=f"{perception}, lower is better")
        axes.margins(0.15)
        axes.grid(linewidth=0.3, alpha=0.5)
        if many:
            figure.legend(loc="outside right upper")
        else:
            axes.legend(loc="best")
        return save_figure(figure, out)


def perception_distortion_points(runs: Sequence[Run], metric: str = "lpips") -> dict[str, tuple[float, float]]:
    """Return (mean PSNR, mean perceptual distance) over images by label: input, stages and runs that have both."""
    parts: list[tuple[str, pd.DataFrame, str]] = [("input", run.scores, "input_") for run in runs[:1]]
    for run in runs:
        parts += [(f"{run.label}, {stage.label}", stage.scores, "") for stage in run.stages]
        parts.append((run.label, run.scores, ""))
    points = {}
    for label, scores, prefix in parts:
        both = scores.reindex(columns=[f"{prefix}psnr", f"{prefix}{metric}"])
        both = both.replace([np.inf, -np.inf], np.nan).dropna().astype(float)
        if len(both):
            points[label] = (float(both.iloc[:, 0].mean()), float(both.iloc[:, 1].mean()))
    return points
