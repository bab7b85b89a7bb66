"""Whole photographs and generated scenes under every degradation, in batches of one shape: what `studies.tone` restores.

Axis letters: B batch, H/W pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from studies import other_degradations
from unildiff.core.pixels import to_unit
from unildiff.data.clean_images import kind_of, lower_light, vary_colour
from unildiff.data.images import list_images, read_rgb
from unildiff.deadleaves.cache import SceneCache
from unildiff.degradations import tasks
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder

SIZE = 8
"""B."""
_SHAPES = {
    (128, 256): 0.24, (160, 240): 0.16, (192, 192): 0.12, (240, 160): 0.06, (192, 384): 0.14, (96, 128): 0.08,
    (64, 64): 0.07, (48, 32): 0.05, (20, 20): 0.04, (144, 208): 0.04,
}  # fmt: skip
"""Height and width of a batch's images: how often."""
_WEIGHTS = {"clear": 2.0, "noise": 0.7, "blur": 0.7, "motion_blur": 0.3}
WHOLE = 2600
"""Batches of these shapes. Those after them are for the judgement whether an image is clean."""
SMALL = 700
"""Batches of small images, more often clean."""
OTHERS = 1300
"""Batches, of all these shapes, with degradations that the restorer does not know."""
_SMALL_SHAPES = {
    (24, 24): 0.12, (16, 16): 0.08, (32, 32): 0.12, (28, 40): 0.12, (40, 24): 0.1, (64, 96): 0.14, (75, 101): 0.12,
    (101, 75): 0.05, (150, 200): 0.08, (120, 90): 0.07,
}  # fmt: skip
_OTHER_SHAPES = {
    shape: 0.74 * _SHAPES.get(shape, 0) + 0.26 * _SMALL_SHAPES.get(shape, 0) for shape in _SHAPES | _SMALL_SHAPES
}
_SMALL_WEIGHTS = _WEIGHTS | {"clear": 4.0, "rain": 2.0, "snow": 2.0}
_SCENES, _RECOLOURED, _EVENING, _CAPTIONED = 0.3, 0.6, 0.3, 0.8
_FLAT = 0.06
"""Share of images of nearly one colour, which photographs hardly show: walls, paper, sky, wood."""
_SEED = 7_000_000


@dataclass(frozen=True)
class ToneBatch:
    """Images in [-1, 1] (B, 3, H, W) without and with degradation, captions, and keys of the sampling noise.

    ``never_kept`` tells which images are to be restored even if that lowers the PSNR, (B,).
    """

    gt: Tensor
    lq: Tensor
    captions: list[str]
    keys: list[int]
    never_kept: Tensor


class Samples:
    """Batches by number; a batch is a pure function of its number and the images."""

    def __init__(self, photographs: Path, scenes: Path, scene_count: int) -> None:
        """Read the photographs and open the cache of scenes of 224 pixels, which is made where it is missing.

        Raises:
            UserError: the folder is missing or holds no images.
        """
        files = list_images(input_folder(photographs, "the clean photographs (--photographs)"))
        if not files:
            raise UserError(f"{photographs} holds no images; `unildiff data photographs` downloads them")
        self._photographs = [(read_rgb(file), kind_of(file)) for file in files]
        self._scenes = SceneCache(scenes, 0, 224, scene_count)
        self._scenes.make()
        self._scene_count = scene_count

    def batch(self, number: int) -> ToneBatch:
        """Return a batch."""
        rng = np.random.default_rng(_SEED + number)
        shapes, weights = (_SHAPES, _WEIGHTS) if number < WHOLE else (_SMALL_SHAPES, _SMALL_WEIGHTS)
        if number >= WHOLE + SMALL:
            shapes, weights = _OTHER_SHAPES, None
        shape = list(shapes)[rng.choice(len(shapes), p=list(shapes.values()))]
        gts, lqs, captions, keys, kept = zip(*(self._sample(rng, *shape, weights) for _ in range(SIZE)), strict=True)
        gt, lq = (to_unit(torch.from_numpy(np.stack(each)).permute(0, 3, 1, 2)) for each in (gts, lqs))
        return ToneBatch(gt, lq, list(captions), list(keys), torch.tensor(kept))

    def _sample(
        self, rng: np.random.Generator, height: int, width: int, weights: dict[str, float] | None
    ) -> tuple[np.ndarray, np.ndarray, str, int, bool]:
        """Return clean and degraded image, caption, key, and whether to restore it in any case; None: other degradations."""
        names = list(tasks.TASKS if weights is not None else other_degradations.DEGRADATIONS)
        shares = np.array([1.0 if weights is None else weights.get(task, 1.0) for task in names])
        task, key = names[rng.choice(len(names), p=shares / shares.sum())], int(rng.integers(2**31))
        depth = None
        if rng.random() < _FLAT:
            image, caption = flat(rng, height, width), ""
        elif rng.random() < _SCENES and max(height, width) <= 240:
            image, depth, caption = self._scene(rng, height, width, key)
        else:
            image, caption = self._photograph(rng, height, width)
        if rng.random() < 0.5:
            image, depth = image[:, ::-1], None if depth is None else np.ascontiguousarray(depth[:, ::-1])
        image = np.ascontiguousarray(image)
        if rng.random() < _RECOLOURED:
            image = recoloured(image, rng)
        if task == tasks.CLEAR and rng.random() < _EVENING:
            image = lower_light(image, key)
        if weights is None:
            return image, other_degradations.degrade(image, task, key), caption, key, task in other_degradations.WEATHER
        return image, tasks.apply(image, task, key, depth), caption, key, False

    def _scene(
        self, rng: np.random.Generator, height: int, width: int, key: int
    ) -> tuple[np.ndarray, np.ndarray | None, str]:
        scene = self._scenes.clean(int(rng.integers(self._scene_count)), key)
        image, depth, side = np.asarray(scene.image), np.asarray(scene.depth), max(224, height, width)
        if side > 224:
            image, depth = (cv2.resize(each, (side, side)) for each in (image, depth))
        top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
        image, depth = (each[top : top + height, left : left + width] for each in (image, depth))
        estimated = rng.random() < 0.6
        return vary_colour(image, key, 0.6, 1.6), None if estimated else depth.clip(0, 1), scene.caption

    def _photograph(self, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, str]:
        """Return a cut that shows at least two thirds of the photograph in one direction, and its caption or none."""
        image, kind = self._photographs[rng.integers(len(self._photographs))]
        caption = kind if rng.random() < _CAPTIONED else ""
        full = max(height / image.shape[0], width / image.shape[1])
        scale = min(1.0, full * rng.uniform(1, 1.5))
        size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top, left = rng.integers(size[1] - height + 1), rng.integers(size[0] - width + 1)
        return image[top : top + height, left : left + width], caption


def flat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a uint8 (H, W, 3) image of one colour with a slope of brightness, and grain that may be drawn out along the rows."""
    colour = rng.uniform(0.15, 0.97) * np.exp(rng.normal(0, 0.12, 3))
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    slope = rng.normal(0, 0.06) * rows + rng.normal(0, 0.06) * columns
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), *np.exp(rng.uniform(-1, 2.5, 2)))
    grain *= rng.exponential(0.03) / max(float(grain.std()), 1e-6)
    values = colour * (1 + slope + grain)[..., None]
    return np.asarray((values.clip(0, 1) * 255).round(), dtype=np.uint8)


def recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 (H, W, 3) image with another saturation, tint, contrast and exposure."""
    values = image.astype(np.float32) / 255
    grey = values.mean(axis=2, keepdims=True)
    values = grey + np.float32(np.exp(rng.uniform(-0.5, 0.3))) * (values - grey)
    values = (values * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)).clip(0, 1)
    values = values ** np.float32(np.exp(rng.uniform(-0.35, 0.35))) * np.float32(np.exp(rng.uniform(-0.3, 0.15)))
    return np.asarray((values.clip(0, 1) * 255).round(), dtype=np.uint8)
