"""Figures beyond the paper's: gates, experts and features, drawn from arrays into a PDF and a PNG.

Letters: T timesteps, E experts, H W pixels, h w places of the routed grid, N images, D features.
`out` is always a path without suffix.
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
    """The experts that a layer chose, by place.

    Attributes:
        choices: (h, w) indices into ``experts``.
        experts: E names.
        cell: height and width in pixels that one choice covers; the first cell begins at the image's corner, the last may
            reach beyond its edge.
    """

    choices: NDArray[np.integer]
    experts: tuple[str, ...]
    cell: tuple[float, float]


def gate_figure(timesteps: ArrayLike, gates: Mapping[str, ArrayLike], out: Path, quantity: str) -> None:
    """Draw curves (T,) by label over the diffusion's timesteps (T,), with noise on the left as sampling proceeds."""
    steps = np.asarray(timesteps)
    many = len(gates) > 4  # their legend would cover the curves
    with new_figure(_HALF + 1.1 * many, 2.4) as figure:
        axes = figure.subplots()
        for index, (label, gate) in enumerate(gates.items()):
            colour, marker = look(index)
            line = axes.plot(steps, np.asarray(gate), label=label, markevery=max(1, len(steps) // 10))[0]
            line.set(color=colour, marker=marker, linestyle=LINES[index % len(LINES)])
        axes.set(xlabel="timestep (sampling goes from left to right)", ylabel=quantity)
        axes.invert_xaxis()
        if many:
            figure.legend(loc="outside right upper")
        elif len(gates) > 1:
            axes.legend()
        save_figure(figure, out)


def expert_usage_figure(usage: Mapping[str, ArrayLike], experts: Sequence[str], out: Path) -> None:
    """Draw how often each of E experts is chosen; counts (E,) by degradation become shares of a row."""
    table = np.array([np.asarray(row, dtype=np.float64) for row in usage.values()])
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
        save_figure(figure, out)


def expert_map_figure(image: NDArray[np.uint8], maps: Mapping[str, ExpertMap], out: Path) -> None:
    """Draw an image (H, W, 3), then for each layer the image in grey, tinted and numbered by the chosen expert."""
    panel = PAGE_WIDTH / (len(maps) + 1)
    legend = 0.2 + 0.12 * max(len(found.experts) for found in maps.values())
    with new_figure(PAGE_WIDTH, panel * image.shape[0] / image.shape[1] + legend) as figure:
        left, *others = figure.subplots(1, len(maps) + 1)
        left.imshow(image)
        left.set_axis_off()
        for axes, (title, found) in zip(others, maps.items(), strict=True):
            _draw_map(axes, image, found)
            axes.set_title(title)
        save_figure(figure, out)


def _draw_map(axes: Axes, image: NDArray[np.uint8], found: ExpertMap) -> None:
    height, width = image.shape[:2]
    rows = (np.arange(height) / found.cell[0]).astype(int)
    columns = (np.arange(width) / found.cell[1]).astype(int)
    colours = np.array([to_rgb(PALETTE[index % len(PALETTE)]) for index in range(len(found.experts))])
    grey = image.astype(np.float64).mean(axis=2, keepdims=True) / 255
    axes.imshow(0.45 * colours[found.choices[rows][:, columns]] + 0.55 * grey)
    axes.set_axis_off()
    if found.choices.size <= _MAX_NUMBERS:  # numbers keep it legible in a grey print
        for (row, column), expert in np.ndenumerate(found.choices):
            ends = min((column + 1) * found.cell[1], width), min((row + 1) * found.cell[0], height)
            place = (column * found.cell[1] + ends[0]) / 2, (row * found.cell[0] + ends[1]) / 2
            axes.text(*place, str(expert + 1), ha="center", va="center", size=6, color="white")
    used = np.bincount(found.choices.ravel(), minlength=len(found.experts)) / found.choices.size
    patches = [
        Patch(facecolor=colour, label=f"{index + 1}: {name} ({used[index]:.0%})")
        for index, (name, colour) in enumerate(zip(found.experts, colours, strict=True))
    ]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, handlelength=1, fontsize=6)


def embedding_figure(features: ArrayLike, labels: Sequence[str], out: Path) -> float:
    """Draw features (N, D) on their first two principal components, coloured by their N labels.

    Returns:
        The silhouette score of the raw features, before any projection, with Euclidean distances; in -1..1.

    Raises:
        ValueError: There are fewer than two labels, or as many as images.
    """
    data, names = np.asarray(features, dtype=np.float64), np.asarray(labels)
    score = float(silhouette_score(data, names))
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(data)
    share = pca.explained_variance_ratio_
    with new_figure(_HALF + 0.9, 2.6) as figure:
        axes = figure.subplots()
        for index, label in enumerate(dict.fromkeys(labels)):
            colour, marker = look(index)
            x, y = points[names == label].T
            axes.scatter(x, y, s=12, marker=marker, color=colour, label=label, alpha=0.8, linewidths=0)
        axes.set(xlabel=f"first component ({share[0]:.0%})", ylabel=f"second component ({share[1]:.0%})")
        axes.set_title(f"silhouette of the raw features: {score:.3f}")
        figure.legend(loc="outside right upper")
        save_figure(figure, out)
    return score
