"""What is looked at in a restored image before it is written: seams of tiles, shifts of colour, the model's uncertainty.

Axis letters: B images of one pass, H/W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch

from unildiff.core.model import UniLDiff
from unildiff.diffusion.sampler import Callback, SamplingSettings
from unildiff.restoring.colour import CERTAIN, judged, shift, transferred
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.seams import HIGH, seam_score
from unildiff.weights.restoring import as_levels, restore_images

SMALL = 128
"""Pixels of a side below which an image holds less than the crops that models are trained on."""
MOVED = 24.0
"""Levels of 255 by which a mean colour may move without a warning."""

DOUBT = 16.0
"""Levels of 255 between seeds, as a standard deviation, at which ``in_doubt: input`` keeps the input alone (our choice)."""


@dataclass
class CheckedImage:
    """A restored image.

    Attributes:
        levels: sRGB (H, W, 3), float32 in 0..255.
        measured: numbers for the manifest.
        warnings: one line each.
        spread: standard deviation over seeds (H, W, 3) in 0..255, None unless it was measured.
    """

    levels: np.ndarray
    measured: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    spread: np.ndarray | None = None


def check_and_correct(
    model: UniLDiff,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    names: Sequence[str],
    sampling: SamplingSettings,
    options: RestoreOptions,
    device: torch.device,
    callback: Callback | None = None,
) -> list[CheckedImage]:
    """Restore images (H, W, 3) of one size and return them checked; ``callback`` is called after each sampling step.

    Raises:
        UserError: a result is not finite.
    """

    def restored(seed: int) -> list[np.ndarray]:
        made = restore_images(model, images, captions, sampling, seed, callback, device)
        return [as_levels(each, name) for each, name in zip(made, names, strict=True)]

    with judged(model) as shares:
        made = restored(options.seed)
    tiles = model.tiles_used  # smaller than requested where memory ran out
    originals = [image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max // 255) for image in images]
    results = [CheckedImage(levels) for levels in made]
    for result, original in zip(results, originals, strict=True):
        if np.abs(result.levels - original).max() < 1:  # half precision rounds
            result.warnings.append("judged clean and left as it is")
    _check_seams(model, results, originals, tiles, lambda: restored(options.seed))
    if options.uncertainty:
        _measure_spread(results, [restored(options.seed + 1 + number) for number in range(options.uncertainty)])
        if options.in_doubt == "input":
            _keep_doubtful(results, originals)
    kept = np.mean(shares, axis=0) if shares else np.zeros(len(images))
    for result, original, share in zip(results, originals, kept, strict=True):
        _check_colour(result, original, options.colour, float(share))
    return results


def _check_seams(
    model: UniLDiff,
    results: list[CheckedImage],
    originals: list[np.ndarray],
    tiles: frozenset[int | None],
    again: Any,
) -> None:
    """Note the seam score of tiled images; where it is high, restore them with tiles that overlap by half."""
    height, width = originals[0].shape[:2]
    sides = {side for side in tiles if side is not None and side < max(height, width)}
    if not sides:
        return
    rows, columns = _all_borders(model, height, width, sides)
    for result, original in zip(results, originals, strict=True):
        result.measured["seam_score"] = round(seam_score(result.levels, original, rows, columns), 3)
    if not any(result.measured["seam_score"] > HIGH for result in results):
        return
    model.tile_overlap = 0.5
    try:
        rows, columns = _all_borders(model, height, width, sides)
        for result, levels, original in zip(results, again(), originals, strict=True):
            if (before := result.measured["seam_score"]) <= HIGH:
                continue  # other images of the pass do not change this one
            score = round(seam_score(levels, original, rows, columns), 3)
            if score < before:
                result.levels = levels
                result.measured |= {"seam_score": score, "overlap": 0.5}
            if min(score, before) > HIGH:
                result.warnings.append(f"tile borders may show (seam score {min(score, before):g})")
    finally:
        del model.tile_overlap


def _all_borders(model: UniLDiff, height: int, width: int, tiles: set[int]) -> tuple[list[int], list[int]]:
    """Return the borders of the U-Net's tiles together with those of the encoders' and the decoder's."""
    found = [_borders(model, height, width, tile) for tile in tiles]
    rows, columns = ({line for borders in found for line in borders[axis]} for axis in (0, 1))
    return sorted(rows), sorted(columns)


def _borders(model: UniLDiff, height: int, width: int, tile: int) -> tuple[list[int], list[int]]:
    """Return the rows and columns of pixels at the middle of the overlaps between tiles."""
    factor = model.downscale_factor
    sides = [-(-side // (2 * factor)) * 2 * factor for side in (height, width)]
    grid = model.grid(sides[0], sides[1], tile)
    if grid is None:
        return [], []
    middles = [
        sorted({(start + size + following) * factor // 2 for start, following in pairwise(starts)})
        for starts, size in ((grid.tops, grid.tile[0]), (grid.lefts, grid.tile[1]))
    ]
    return [row for row in middles[0] if row < height - 2], [column for column in middles[1] if column < width - 2]


def _measure_spread(results: list[CheckedImage], others: list[list[np.ndarray]]) -> None:
    for index, result in enumerate(results):
        draws = np.stack([result.levels, *(other[index] for other in others)])
        result.spread = draws.std(axis=0).astype(np.float32)
        result.measured["uncertainty"] = round(float(result.spread.mean()), 3)


def _keep_doubtful(results: list[CheckedImage], originals: list[np.ndarray]) -> None:
    """Blend in the input where the seeds disagree: fully from a spread of ``DOUBT`` on, not at all below half of it."""
    for result, original in zip(results, originals, strict=True):
        assert result.spread is not None
        doubt = cv2.GaussianBlur(result.spread.mean(axis=2), (0, 0), 2.0)  # (H, W)
        weight = (2 * doubt / DOUBT - 1).clip(0, 1)
        result.levels = result.levels + weight[..., None] * (original - result.levels)
        result.measured["input_kept"] = round(float(weight.mean()), 3)


def _check_colour(result: CheckedImage, original: np.ndarray, colour: str, kept: float) -> None:
    """Transfer the input's colours where the options say so; note how far they moved, and warn where it is far."""
    if colour == "auto":
        result.measured["colour_kept"] = round(kept, 3)
    strength = {"input": 1.0, "auto": float(kept >= CERTAIN)}.get(colour, 0.0)
    if strength:
        result.levels = transferred(result.levels, original, strength)
    moved = shift(result.levels, original)
    result.measured["colour_shift"] = moved
    small = min(original.shape[:2]) < SMALL
    if max(map(abs, moved)) > MOVED / (2 if small else 1):
        size = f"the image is small ({original.shape[1]}x{original.shape[0]}) and " if small else ""
        result.warnings.append(
            f"{size}its mean colour moved by {max(moved, key=abs):+.0f} of 255; if it should not, use --colour input"
        )
