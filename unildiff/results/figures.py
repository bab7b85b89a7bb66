"""Pictures side by side with a zoomed inset, and the paper's Figures 1 to 3 made from a scored run.

Letters: H W pixels. Pictures are (H, W, 3) uint8 RGB in 0..255.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from unildiff.data.images import read_rgb
from unildiff.results.figures_style import PAGE_WIDTH, PALETTE, new_figure, save_figure
from unildiff.results.paper_rows import TableId
from unildiff.results.tables_runs import Run
from unildiff.results.tables_specs import SPECS
from unildiff.utils.errors import UserError

Picture = NDArray[np.uint8]
FigureName = Literal["figure1", "figure2", "figure3"]

FIGURES: dict[FigureName, TableId] = {"figure1": "table1", "figure2": "table2", "figure3": "udc"}
_INSET = 0.42  # side of the inset in units of the panel's shorter side
_GAP, _LABEL, _TITLE, _CAPTION = 0.04, 0.17, 0.17, 0.13  # inches


def zoom_window(pictures: Sequence[Picture], fraction: float = 0.2) -> tuple[int, int, int]:
    """Find the square in which the pictures' detail differs most.

    Each picture's local mean (over a square of the same side) is taken off first, or low light and haze would lead to
    whatever is brightest, with nothing to see in it. The difference at a pixel is then the variance over the pictures,
    summed over colours; the square with the largest sum is taken, the first in reading order where several are equal.
    Nobody's hand chooses it (our choice).

    Args:
        pictures: versions of one picture, all (H, W, 3).
        fraction: side of the square in units of the shorter side.

    Returns:
        (top, left, side) in pixels, inside the picture.

    Raises:
        ValueError: no picture, or their sizes differ.
    """
    if not pictures or len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"need pictures of one size, got {[picture.shape for picture in pictures]}")
    side = max(1, round(fraction * min(pictures[0].shape[:2])))
    detail = [picture - cv2.blur(picture.astype(np.float64), (side, side)) for picture in pictures]
    variance_HW = np.stack(detail).var(axis=0).sum(axis=-1)
    sums = np.pad(variance_HW, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.round(windows, 3).argmax()), windows.shape)
    return int(top), int(left), side


def comparison_figure(
    rows: Sequence[tuple[str, Mapping[str, Picture]]],
    out: Path,
    *,
    captions: Mapping[tuple[str, str], str] | None = None,
    stacks: int = 1,
    fraction: float = 0.2,
) -> list[Path]:
    """Draw pictures in a grid: one line a row of ``rows``, one column a name; each panel with its zoomed inset.

    The window of :func:`zoom_window` is framed in every panel, and shown enlarged in the corner farthest from it.

    Args:
        rows: (label, pictures by column name); a column that a row lacks stays empty. Pictures of a row have one size.
        out: path without suffix.
        captions: text below a panel by (row label, column name), e.g. its PSNR.
        stacks: in how many stacks, side by side, the rows stand.
        fraction: side of the zoomed window in units of the picture's shorter side.

    Returns:
        The PDF and the PNG.

    Raises:
        ValueError: no row, or pictures of one row differ in size.
    """
    if not rows:
        raise ValueError("a comparison needs at least one row")
    columns = list(dict.fromkeys(column for _, pictures in rows for column in pictures))
    lines = math.ceil(len(rows) / stacks)
    panel = (PAGE_WIDTH - stacks * _LABEL) / (stacks * len(columns)) - _GAP
    caption = _CAPTION if captions else 0.0
    aspects = [max(picture.shape[0] / picture.shape[1] for picture in pictures.values()) for _, pictures in rows]
    heights = [panel * min(1.25, max(aspects[line::lines])) for line in range(lines)]
    total = _TITLE + sum(heights) + lines * (_GAP + caption)
    with new_figure(PAGE_WIDTH, total) as figure:
        figure.set_layout_engine("none")
        for index, (label, pictures) in enumerate(rows):
            stack, line = divmod(index, lines)
            x0 = stack * (PAGE_WIDTH / stacks)
            y = total - _TITLE - sum(heights[: line + 1]) - line * (_GAP + caption)
            middle = (y + heights[line] / 2) / total
            figure.text((x0 + _LABEL / 2) / PAGE_WIDTH, middle, label, rotation=90, ha="center", va="center", size=7)
            window = zoom_window(list(pictures.values()), fraction)
            for position, column in enumerate(columns):
                x = x0 + _LABEL + position * (panel + _GAP)
                axes = figure.add_axes((x / PAGE_WIDTH, y / total, panel / PAGE_WIDTH, heights[line] / total))
                axes.set_axis_off()
                if line == 0:
                    centre = (x + panel / 2) / PAGE_WIDTH
                    figure.text(centre, 1 - _TITLE / 2 / total, column, ha="center", va="center", size=7)
                if column in pictures:
                    _draw_panel(axes, pictures[column], window)
                text = (captions or {}).get((label, column), "")
                axes.text(0.5, -0.02, text, transform=axes.transAxes, ha="center", va="top", size=5.5)
        return save_figure(figure, out)


def _draw_panel(axes: Axes, picture: Picture, window: tuple[int, int, int]) -> None:
    top, left, side = window
    height, width = picture.shape[:2]
    axes.imshow(picture)
    size = _INSET * min(height, width)
    inset_left = 0.0 if left + side / 2 > width / 2 else width - size
    inset_top = 0.0 if top + side / 2 > height / 2 else height - size
    inset = axes.inset_axes((inset_left, inset_top, size, size), transform=axes.transData)
    inset.imshow(picture[top : top + side, left : left + side])
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[:].set(visible=True, color=PALETTE[1], linewidth=0.9)
    for colour, line_width in (("white", 1.6), (PALETTE[1], 0.8)):  # the white edge keeps it visible on any ground
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=colour, linewidth=line_width)
        )


def paper_figure(name: FigureName, run: Run, out: Path, others: Mapping[str, Path] | None = None) -> list[Path]:
    """Draw the paper's Figure 1 (five tasks), 2 (CDD-11) or 3 (under-display cameras); see :func:`table_figure`."""
    return table_figure(FIGURES[name], run, out, others)


def table_figure(table_id: TableId, run: Run, out: Path, others: Mapping[str, Path] | None = None) -> list[Path]:
    """Draw a scored run's pictures, one line a degradation of a table: input, other methods, the run, truth.

    The picture of each line is the one whose PSNR is nearest to the degradation's median: neither the best nor
    hand-picked. More than six lines stand in two stacks, to fit a page.

    Args:
        table_id: whose columns are the lines.
        run: its pictures must have been kept, see :meth:`Run.picture`.
        out: path without suffix.
        others: by label, folders of other methods' pictures, ``<degradation>/<name>.png`` in each.

    Returns:
        The PDF and the PNG.

    Raises:
        UserError: the run has no pictures for the figure, or another method's folder lacks one.
    """
    spec = SPECS[table_id]
    rows: list[tuple[str, Mapping[str, Picture]]] = []
    captions: dict[tuple[str, str], str] = {}
    for position, column in enumerate(spec.columns):
        key = spec.key(position, run.scores)
        chosen = median_picture(run, key)
        if chosen is None:
            continue
        panels: dict[str, Path | None] = {"input": run.picture("input", chosen)}
        for label, folder in (others or {}).items():
            panels[label] = folder / key / f"{run.scores.names[chosen]}.png"
        panels[run.label] = run.picture("restored", chosen)
        panels["truth"] = run.picture("truth", chosen)
        rows.append((column.title, {label: read_rgb(path) for label, path in panels.items() if path}))
        for label, metric in (("input", "input_psnr"), (run.label, "psnr")):
            captions[column.title, label] = f"{run.scores.metrics[metric][chosen]:.2f} dB"
        captions[column.title, "truth"] = run.scores.names[chosen]
    if not rows:
        raise UserError(f"no pictures to show: {run.folder} kept none of {spec.title}, test again and save pictures")
    return comparison_figure(rows, out, captions=captions, stacks=2 if len(rows) > 6 else 1)


def median_picture(run: Run, degradation: str) -> int | None:
    """Return the index of the kept picture whose PSNR is nearest to the degradation's median; ``None`` without any."""
    psnr = run.scores.metrics["psnr"]
    members = [index for index, found in enumerate(run.scores.degradations) if found == degradation]
    members = [index for index in members if math.isfinite(psnr[index]) and run.picture("restored", index)]
    if not members:
        return None
    median = float(np.median(psnr[members]))
    return min(members, key=lambda index: abs(float(psnr[index]) - median))


def perception_distortion_points(runs: Sequence[Run], metric: str = "lpips") -> dict[str, tuple[float, float]]:
    """Return (mean PSNR, mean perceptual distance) of each run and stage that has both, by label, and of the input.

    The input's point is there where ``input_{metric}`` was computed. Means are over pictures, finite values only.
    """
    parts = [("input", run.scores, "input_") for run in runs[:1]]
    for run in runs:
        parts += [(f"{run.label}, {stage.label}", stage.scores, "") for stage in run.stages] + [
            (run.label, run.scores, "")
        ]
    points = {}
    for label, scores, prefix in parts:
        if f"{prefix}{metric}" in scores.metrics:
            psnr, distance = scores.metrics[f"{prefix}psnr"], scores.metrics[f"{prefix}{metric}"]
            both = np.isfinite(psnr) & np.isfinite(distance)
            if both.any():
                points[label] = float(psnr[both].mean()), float(distance[both].mean())
    return points
