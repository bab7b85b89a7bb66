"""Figures beyond the paper's: gates, experts, features, perception against distortion.

Letters: T timesteps, E experts, H W pixels, h w places of the routed grid, N pictures, D features.
All are plain functions of arrays that write a PDF and a PNG and return their paths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from unildiff.results.figures_style import LINES, PAGE_WIDTH, PALETTE, SEQUENTIAL, look, new_figure, save_figure

_HALF = PAGE_WIDTH / 2
_MAX_NUMBERS = 300  # more numbers than this would hide the map


@dataclass(frozen=True)
class ExpertMap:
    """Which expert a layer chose where.

    Attributes:
        choices: (h, w) indices into ``experts``.
        experts: E names.
        cell: height and width, in pixels of the picture, of what one choice covers; the first begins at the picture's
            corner, the last may reach beyond its edge.
    """

    choices: NDArray[np.integer]
    experts: tuple[str, ...]
    cell: tuple[float, float]


def gate_figure(
    timesteps: ArrayLike, gates: Mapping[str, ArrayLike], out: Path, *, quantity: str = "mean |gate|"
) -> list[Path]:
    """Draw the fusion gate over the diffusion's timesteps, noise on the left as sampling goes.

    Args:
        timesteps: (T,) in 0..999.
        gates: by curve (e.g. a degradation), (T,) mean absolute gate, or another quantity.
        out: path without suffix.
        quantity: what is drawn.

    Raises:
        ValueError: a curve is not as long as ``timesteps``.
    """
    steps = np.asarray(timesteps)
    many = len(gates) > 4  # their legend would cover the curves
    with new_figure(_HALF + 1.1 * many, 2.4) as figure:
        axes = figure.subplots()
        for index, (label, gate) in enumerate(gates.items()):
            _line(axes, steps, np.asarray(gate), index, label)
        axes.set(xlabel="timestep (sampling goes from left to right)", ylabel=quantity)
        axes.invert_xaxis()
        if many:
            figure.legend(loc="outside right upper")
        elif len(gates) > 1:
            axes.legend()
        return save_figure(figure, out)


def expert_usage_figure(usage: Mapping[str, ArrayLike], experts: Sequence[str], out: Path) -> list[Path]:
    """Draw how often each expert is chosen, a line a degradation; each line is normalised to shares.

    Args:
        usage: by degradation, (E,) counts or shares, at least 0.
        experts: E names, e.g. the kernel sizes.
        out: path without suffix.

    Raises:
        ValueError: a line does not have E entries, or sums to nothing.
    """
    table = np.array([np.asarray(row, dtype=np.float64) for row in usage.values()])
    if table.ndim != 2 or table.shape[1] != len(experts) or (table.sum(axis=1) <= 0).any():
        raise ValueError(f"usage must be one line of {len(experts)} shares a degradation, got {table.shape}")
    shares = table / table.sum(axis=1, keepdims=True)
    with new_figure(_HALF, 0.7 + 0.2 * len(usage)) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(experts)), experts)
        axes.set_yticks(range(len(usage)), list(usage))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        for (row, column), share in np.ndenumerate(shares):
            colour = "black" if share > 0.55 else "white"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", size=6, color=colour)
        figure.colorbar(image, ax=axes, label="share of the choices")
        return save_figure(figure, out)


def expert_map_figure(picture: NDArray[np.uint8], maps: Mapping[str, ExpertMap], out: Path) -> list[Path]:
    """Draw which expert was chosen where: the picture, then for each layer the picture in grey, tinted and numbered.

    Args:
        picture: (H, W, 3) uint8 RGB.
        maps: by layer.
        out: path without suffix.

    Raises:
        ValueError: no layer, more experts than colours, an index that is no expert, or cells that leave a part uncovered.
    """
    height, width = picture.shape[:2]
    for title, found in maps.items():
        reach = [count * side for count, side in zip(found.choices.shape, found.cell, strict=True)]
        if len(found.experts) > len(PALETTE) or found.choices.min() < 0 or found.choices.max() >= len(found.experts):
            raise ValueError(f"{title}: choices must be in 0..{len(found.experts) - 1}, at most {len(PALETTE)} experts")
        if reach[0] < height or reach[1] < width:
            raise ValueError(f"{title}: cells cover {reach[0]:g}x{reach[1]:g} of {height}x{width} pixels")
    if not maps:
        raise ValueError("no layer to draw")
    panel = PAGE_WIDTH / (len(maps) + 1)
    with new_figure(
        PAGE_WIDTH, panel * height / width + 0.2 + 0.12 * max(len(each.experts) for each in maps.values())
    ) as figure:
        left, *others = figure.subplots(1, len(maps) + 1)
        left.imshow(picture)
        left.set_axis_off()
        for axes, (title, found) in zip(others, maps.items(), strict=True):
            _draw_map(axes, picture, found)
            axes.set_title(title)
        return save_figure(figure, out)


def _draw_map(axes: Axes, picture: NDArray[np.uint8], found: ExpertMap) -> None:
    height, width = picture.shape[:2]
    rows = (np.arange(height) / found.cell[0]).astype(int)
    columns = (np.arange(width) / found.cell[1]).astype(int)
    colours = np.array([to_rgb(PALETTE[index]) for index in range(len(found.experts))])
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True) / 255
    axes.imshow(0.45 * colours[found.choices[rows][:, columns]] + 0.55 * grey)
    axes.set_axis_off()
    if found.choices.size <= _MAX_NUMBERS:  # numbers, for whoever prints in grey
        for (row, column), expert in np.ndenumerate(found.choices):
            ends = min((column + 1) * found.cell[1], width), min((row + 1) * found.cell[0], height)
            place = (column * found.cell[1] + ends[0]) / 2, (row * found.cell[0] + ends[1]) / 2
            axes.text(*place, str(expert + 1), ha="center", va="center", size=6, color="white")
    used = np.bincount(found.choices.ravel(), minlength=len(found.experts)) / found.choices.size
    patches = [
        Patch(facecolor=PALETTE[index], label=f"{index + 1}: {name} ({used[index]:.0%})")
        for index, name in enumerate(found.experts)
    ]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, handlelength=1, fontsize=6)


def embedding_figure(features: ArrayLike, labels: Sequence[str], out: Path) -> float:
    """Draw LQ features on their first two principal components, unmodified, coloured by degradation.

    No supervised projection and no contraction of groups; the silhouette score is that
    of the raw features, before any projection, with Euclidean distances.

    Args:
        features: (N, D), one vector a picture.
        labels: N degradations.
        out: path without suffix.

    Returns:
        The silhouette score, in -1..1.

    Raises:
        ValueError: fewer than two labels, or as many as pictures.
    """
    data = np.asarray(features, dtype=np.float64)
    score = float(silhouette_score(data, labels))
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(data)
    share = pca.explained_variance_ratio_
    with new_figure(_HALF + 0.9, 2.6) as figure:
        axes = figure.subplots()
        for index, label in enumerate(dict.fromkeys(labels)):
            chosen = np.array([each == label for each in labels])
            colour, marker = look(index)
            axes.scatter(
                points[chosen, 0],
                points[chosen, 1],
                s=12,
                marker=marker,
                color=colour,
                label=label,
                alpha=0.8,
                linewidths=0,
            )
        axes.set(xlabel=f"first component ({share[0]:.0%})", ylabel=f"second component ({share[1]:.0%})")
        axes.set_title(f"silhouette of the raw features: {score:.3f}")
        figure.legend(loc="outside right upper")
        save_figure(figure, out)
    return score


def _line(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], index: int, label: str) -> None:
    colour, marker = look(index)
    dashes = LINES[index % len(LINES)]
    axes.plot(x, y, label=label, color=colour, marker=marker, linestyle=dashes, markevery=max(1, len(x) // 10))
