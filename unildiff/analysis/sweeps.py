"""PSNR and GMSD against the sampler's two settings, guidance scale and number of steps, over captioned pictures.

Axis letters: H/W pixels.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import get_protocol
from unildiff.metrics.registry import METRICS, load_scorers
from unildiff.metrics.rows import Row, summarise, write_csv
from unildiff.results.evaluator import score_picture
from unildiff.results.figures_style import LINES, MARKERS, PAGE_WIDTH, PALETTE, new_figure, save_figure
from unildiff.utils.errors import UserError
from unildiff.utils.fingerprints import weights_hash
from unildiff.utils.parallel import progress

PAPER = SamplingSettings()
"""The paper's 20 steps and guidance 5."""
GUIDANCE = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
STEPS = (1, 2, 4, 8, 12, 20, 35, 50)
SCORED = ("psnr", "gmsd")


@dataclass(frozen=True)
class Setting:
    """One point of a sweep."""

    steps: int
    guidance: float


def settings(guidance: Iterable[float] = GUIDANCE, steps: Iterable[int] = STEPS) -> list[Setting]:
    """Return the points of both sweeps, each once; in each the other setting is the paper's."""
    points = [Setting(PAPER.num_inference_steps, scale) for scale in guidance]
    return list(dict.fromkeys([*points, *(Setting(number, PAPER.guidance_scale) for number in steps)]))


def sweep(
    model: UniLDiff,
    samples: Sequence[RestorationSample],
    points: Sequence[Setting],
    out: Path,
    protocol: str = "onerestore",
    metrics: Sequence[str] = SCORED,
) -> list[Row]:
    """Restore every picture at every point; the same noise throughout, as it depends on the picture alone.

    ``out``, a CSV with a line a picture and point, is written after each picture; points that it already holds of these
    weights are not restored again, so that a sweep that was stopped goes on, and one can be widened later.

    Args:
        model: in evaluation mode.
        samples: pictures; with captions where guidance is compared.
        points: from ``settings``.
        out: the CSV.
        protocol: of the scores.
        metrics: of each picture, names of ``registry.METRICS`` that can be had here.

    Returns:
        rows with degradation, name, model (a hash of its weights), steps, guidance and the metrics: those of these
        samples, points and weights, whatever else ``out`` holds.

    Raises:
        UserError: a picture has no caption, so that guidance would do nothing, or ``out`` is another kind of file.
    """
    bare = [sample["name"] for sample in samples if not sample["caption"]]
    if bare and len({point.guidance for point in points}) > 1:
        raise UserError(f"sweep: {bare[0]} has no caption, and guidance needs one; give captioned pictures")
    scorers, _ = load_scorers(metrics, get_protocol(protocol))
    rows = read_sweep(out, metrics) if out.exists() else []
    weights = weights_hash(model.named_parameters())
    done = {_key(row) for row in rows}
    asked = set()
    device = next(model.parameters()).device
    for sample in progress(samples, len(samples), "sweeping"):
        label: Row = {"degradation": sample["degradation"], "name": sample["name"], "model": weights}
        lines = {point: label | {"steps": float(point.steps), "guidance": point.guidance} for point in points}
        asked |= {_key(line) for line in lines.values()}
        missing = [point for point, line in lines.items() if _key(line) not in done]
        if not missing:
            continue
        lq = to_unit(sample["lq"][None].to(device))
        with torch.inference_mode():
            features = model.encode_lq(model.pad(lq))
        for point in missing:
            chosen = replace(PAPER, num_inference_steps=point.steps, guidance_scale=point.guidance)
            with torch.inference_mode():
                latents = model.sample_latents(features, [sample["caption"]], [sample["key"]], chosen)
                restored = to_uint8(model.decode(latents, features, lq.shape))[0].cpu()
            scores = score_picture(restored, sample["gt"], scorers, metrics)
            rows.append(lines[point] | scores)
        write_csv(rows, out)
    return [row for row in rows if _key(row) in asked]


def read_sweep(path: Path, metrics: Sequence[str] = SCORED) -> list[Row]:
    """Return the rows that ``sweep`` wrote with these metrics.

    Raises:
        UserError: the file holds something else.
    """
    names, numbers = ("degradation", "name"), ("steps", "guidance", *metrics)
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [
                {key: line[key] for key in names}
                | {"model": line.get("model", "")}  # older files lack it: of a model that is not known
                | {key: float(line[key]) for key in numbers}
                for line in csv.DictReader(file)
            ]
        except (KeyError, ValueError, TypeError):
            raise UserError(f"sweep: {path} is not what a sweep writes; give another file") from None


def means(rows: Sequence[Row]) -> dict[Setting, dict[str, float]]:
    """Return each point's scores, means over degradations of means over pictures, and ``count``, the pictures."""
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        scores = {key: value for key, value in row.items() if key not in ("model", "steps", "guidance")}
        groups.setdefault(_setting(row), []).append(scores)
    return {
        point: {key: float("nan") if value is None else value for key, value in summarise(members)["avg"].items()}
        for point, members in groups.items()
    }


def sweep_figure(rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw PSNR and GMSD against guidance and steps; the paper's settings are marked by a vertical line.

    Args:
        rows: from ``sweep``.
        out: path without suffix.

    Returns:
        the PDF and the PNG.
    """
    found = sorted(means(rows).items(), key=lambda item: (item[0].guidance, item[0].steps))
    by_steps = {float(point.steps): scores for point, scores in found if point.guidance == PAPER.guidance_scale}
    by_guidance = {point.guidance: scores for point, scores in found if point.steps == PAPER.num_inference_steps}
    columns = (
        ("guidance scale", by_guidance, PAPER.guidance_scale),
        ("steps", by_steps, float(PAPER.num_inference_steps)),
    )
    with new_figure(PAGE_WIDTH, 3.6) as figure:
        for line, (axes_row, metric) in enumerate(zip(figure.subplots(2, 2, sharey="row"), SCORED, strict=True)):
            info = METRICS[metric]
            for axes, (label, curve, paper) in zip(axes_row, columns, strict=True):
                values = [scores[metric] for scores in curve.values()]
                axes.plot(list(curve), values, color=PALETTE[line], marker=MARKERS[line], linestyle=LINES[0])
                axes.axvline(paper, color="0.5", linewidth=0.8, linestyle=LINES[3])
                axes.annotate(
                    f"paper: {paper:g}", (paper, 0.96), (3, 0), ("data", "axes fraction"), "offset points", size=6
                )
                axes.set(xlabel=label)
            better = "higher" if info.higher_is_better else "lower"
            axes_row[0].set(ylabel=f"{info.title}{' (dB)' if metric == 'psnr' else ''}\n{better} is better")
            axes_row[1].set_xscale("log", base=2)
            axes_row[1].xaxis.set_major_formatter("{x:g}")
        return save_figure(figure, out)


def _key(row: Row) -> tuple[object, ...]:
    return row["degradation"], row["name"], row["model"], _setting(row)


def _setting(row: Row) -> Setting:
    return Setting(int(float(row["steps"] or 0)), float(row["guidance"] or 0))
