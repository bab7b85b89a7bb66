"""Figures beyond the paper's: gates, experts, features, sampling settings, perception against distortion.

Letters: T timesteps, E experts, H W pixels, h w places of the routed grid, N pictures, D features.
All are plain functions of arrays that write a PDF and a PNG and return their paths.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from unildiff.evaluation.figures_style import LINES, MARKERS, PAGE_WIDTH, PALETTE, SEQUENTIAL, new_figure, save_figure

_HALF = PAGE_WIDTH / 2
_MAX_NUMBERS = 300  # more numbers than this would hide the map


def gate_figure(timesteps: ArrayLike, gates: Mapping[str, ArrayLike], out: Path) -> list[Path]:
    """Draw the fusion gate over the diffusion's timesteps, noise on the left as sampling goes.

    Args:
        timesteps: (T,) in 0..999.
        gates: by curve (e.g. a degradation), (T,) mean absolute gate.
        out: path without suffix.

    Raises:
        ValueError: a curve is not as long as ``timesteps``.
    """
    steps = np.asarray(timesteps)
    with new_figure(_HALF, 2.2) as figure:
        axes = figure.subplots()
        for index, (label, gate) in enumerate(gates.items()):
            _line(axes, steps, np.asarray(gate), index, label)
        axes.set(xlabel="timestep (sampling goes from left to right)", ylabel="mean |gate|")
        axes.invert_xaxis()
        axes.legend(ncols=2 if len(gates) > 4 else 1)
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


def expert_map_figure(
    picture: NDArray[np.uint8], choices: NDArray[np.integer], experts: Sequence[str], out: Path
) -> list[Path]:
    """Draw which expert was chosen where: the picture, and the picture in grey, tinted and numbered by expert.

    Args:
        picture: (H, W, 3) uint8 RGB.
        choices: (h, w) indices into ``experts``; each covers an equal part of the picture.
        experts: E names.
        out: path without suffix.

    Raises:
        ValueError: more experts than colours, or an index that is no expert.
    """
    if len(experts) > len(PALETTE) or choices.min() < 0 or choices.max() >= len(experts):
        raise ValueError(f"choices must be in 0..{len(experts) - 1}, for at most {len(PALETTE)} experts")
    height, width = picture.shape[:2]
    rows = np.arange(height) * choices.shape[0] // height
    columns = np.arange(width) * choices.shape[1] // width
    colours = np.array([to_rgb(PALETTE[index]) for index in range(len(experts))])
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True) / 255
    tinted = 0.45 * colours[choices[rows][:, columns]] + 0.55 * grey
    with new_figure(PAGE_WIDTH, PAGE_WIDTH / 2 * height / width + 0.35) as figure:
        left, right = figure.subplots(1, 2)
        for axes, shown in ((left, picture), (right, tinted)):
            axes.imshow(shown)
            axes.set_axis_off()
        if choices.size <= _MAX_NUMBERS:  # numbers, for whoever prints in grey
            for (row, column), expert in np.ndenumerate(choices):
                place = ((column + 0.5) * width / choices.shape[1], (row + 0.5) * height / choices.shape[0])
                right.text(*place, str(expert + 1), ha="center", va="center", size=6, color="white")
        used = np.bincount(choices.ravel(), minlength=len(experts)) / choices.size
        names = [f"{i + 1}: {name} ({share:.0%})" for i, (name, share) in enumerate(zip(experts, used, strict=True))]
        patches = [Patch(facecolor=PALETTE[index], label=name) for index, name in enumerate(names)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(experts))
        return save_figure(figure, out)


def embedding_figure(features: ArrayLike, labels: Sequence[str], out: Path) -> float:
    """Draw LQ features on their first two principal components, unmodified, coloured by degradation.

    No supervised projection and no contraction of groups (``peers.md`` 5.9 tells of both); the silhouette score is that
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
            marker, colour = MARKERS[index % len(MARKERS)], PALETTE[(index + index // len(MARKERS)) % len(PALETTE)]
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


def sampling_figure(
    steps: Mapping[str, tuple[ArrayLike, ArrayLike]], guidance: Mapping[str, tuple[ArrayLike, ArrayLike]], out: Path
) -> list[Path]:
    """Draw PSNR against the number of sampling steps and against the guidance scale, side by side.

    Args:
        steps: by curve, (numbers of steps, PSNR in dB).
        guidance: by curve, (guidance scales, PSNR in dB).
        out: path without suffix.
    """
    with new_figure(PAGE_WIDTH, 2.2) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, curves, label in ((left, steps, "sampling steps"), (right, guidance, "guidance scale")):
            for index, (name, (settings, psnr)) in enumerate(curves.items()):
                _line(axes, np.asarray(settings), np.asarray(psnr), index, name)
            axes.set(xlabel=label)
            axes.legend()
        left.set(ylabel="PSNR (dB)")
        left.set_xscale("log", base=2)
        left.xaxis.set_major_formatter("{x:g}")
        return save_figure(figure, out)


def perception_distortion_figure(
    points: Mapping[str, tuple[float, float]], out: Path, *, perception: str = "LPIPS"
) -> list[Path]:
    """Draw methods in the plane of distortion (PSNR) and perception; the better corner is the lower right.

    Args:
        points: by method, (PSNR in dB, perceptual distance, lower is better).
        out: path without suffix.
        perception: the name of the perceptual distance.
    """
    with new_figure(_HALF, 2.4) as figure:
        axes = figure.subplots()
        for index, (label, (psnr, distance)) in enumerate(points.items()):
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            axes.scatter([psnr], [distance], s=24, color=colour, marker=marker, label=label, zorder=3)
        axes.set(xlabel="PSNR (dB), higher is better", ylabel=f"{perception}, lower is better")
        axes.margins(0.15)
        axes.grid(linewidth=0.3, alpha=0.5)
        axes.annotate(
            "better", (0.97, 0.05), (0.80, 0.16), "axes fraction", arrowprops={"arrowstyle": "->", "lw": 0.6}, size=6
        )
        axes.legend(loc="best")
        return save_figure(figure, out)


def _line(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], index: int, label: str) -> None:
    axes.plot(
        x,
        y,
        label=label,
        color=PALETTE[index % len(PALETTE)],
        marker=MARKERS[index % len(MARKERS)],
        linestyle=LINES[index % len(LINES)],
        markevery=max(1, len(x) // 10),
    )
