"""PSNR, GMSD and a perceptual metric against the sampler's two settings, guidance scale and number of steps.

Axis letters: H/W pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.names import METRICS
from unildiff.metrics.registry import Scorer
from unildiff.metrics.rows import Row, summarise
from unildiff.results.evaluator import score_image
from unildiff.results.figures_style import LINES, MARKERS, PAGE_WIDTH, PALETTE, new_figure, save_figure
from unildiff.utils.parallel import progress

PAPER = SamplingSettings()
"""The paper's 20 steps and guidance 5."""
SCORED = ("psnr", "gmsd")


def sweep_points(guidance: Iterable[float], steps: Iterable[int]) -> list[SamplingSettings]:
    """Return the points of both sweeps, each once; in each sweep the other setting is the paper's."""
    points = [replace(PAPER, guidance_scale=scale) for scale in guidance]
    points += [replace(PAPER, num_inference_steps=number) for number in steps]
    return [point for index, point in enumerate(points) if point not in points[:index]]


def sweep(
    model: UniLDiff,
    samples: Sequence[RestorationSample],
    points: Sequence[SamplingSettings],
    scorers: Mapping[str, Scorer],
) -> list[Row]:
    """Restore every image at every point, with the same noise throughout.

    Args:
        model: Model in evaluation mode.
        samples: Images; with captions where guidance is compared.
        points: Settings of the sampler.
        scorers: Metrics by name.

    Returns:
        A row per image and point: degradation, name, steps, guidance and the metrics.
    """
    rows: list[Row] = []
    for sample in progress(samples, len(samples), "sweeping"):
        lq = to_unit(sample["lq"][None].to(next(model.parameters()).device))
        with torch.inference_mode():
            features = model.encode_lq(model.pad(lq))
            for point in points:
                latents = model.sample_latents(features, [sample["caption"]], [sample["key"]], point)
                restored = to_uint8(model.decode(latents, features, lq.shape))[0].cpu()
                label: Row = {"degradation": sample["degradation"], "name": sample["name"]}
                label |= {"steps": float(point.num_inference_steps), "guidance": point.guidance_scale}
                rows.append(label | score_image(restored, sample["gt"], scorers, list(scorers)))
    return rows


def sweep_means(rows: Sequence[Row]) -> dict[tuple[int, float], dict[str, float | None]]:
    """Return by (steps, guidance) the means over degradations of means over images."""
    groups: dict[tuple[int, float], list[Row]] = {}
    for row in rows:
        scores = {key: value for key, value in row.items() if key not in ("steps", "guidance")}
        groups.setdefault((int(float(row["steps"] or 0)), float(row["guidance"] or 0)), []).append(scores)
    return {point: summarise(groups[point])["avg"] for point in sorted(groups, key=lambda point: point[::-1])}


def sweep_figure(rows: Sequence[Row], out: Path) -> None:
    """Draw PSNR and GMSD against guidance and steps into a PDF and a PNG; vertical lines mark the paper's settings."""
    found = sweep_means(rows)
    paper_steps, paper_guidance = PAPER.num_inference_steps, PAPER.guidance_scale
    columns = (
        ("guidance scale", {scale: each for (steps, scale), each in found.items() if steps == paper_steps}),
        ("steps", {float(steps): each for (steps, scale), each in found.items() if scale == paper_guidance}),
    )
    with new_figure(PAGE_WIDTH, 3.6) as figure:
        for line, (axes_row, metric) in enumerate(zip(figure.subplots(2, 2, sharey="row"), SCORED, strict=True)):
            info = METRICS[metric]
            for axes, (label, curve), paper in zip(axes_row, columns, (paper_guidance, paper_steps), strict=True):
                values = [scores[metric] for scores in curve.values()]
                axes.plot(list(curve), values, color=PALETTE[line], marker=MARKERS[line], linestyle=LINES[0])
                axes.axvline(paper, color="0.5", linewidth=0.8, linestyle=LINES[3])
                place = {"xy": (paper, 0.96), "xytext": (3, 0), "xycoords": ("data", "axes fraction")}
                axes.annotate(f"paper: {paper:g}", textcoords="offset points", size=6, **place)
                axes.set(xlabel=label)
            better = "higher" if info.higher_is_better else "lower"
            axes_row[0].set(ylabel=f"{info.title}{' (dB)' if metric == 'psnr' else ''}\n{better} is better")
            axes_row[1].set_xscale("log", base=2)
            axes_row[1].xaxis.set_major_formatter("{x:g}")
        save_figure(figure, out)
