"""Tiny images for fake datasets: seeded, and the pixels of each identify its scene."""

from pathlib import Path

import numpy as np
from PIL import Image

Expected = dict[
    tuple[str, str], tuple[str | None, str]
]  # (degradation, name) -> (degraded, clean), relative to the root
SHIFT = 40  # what a fake degradation adds to every pixel


def scene(number: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """Return clean scene ``number``: random but for its first pixel, which is its number."""
    image = np.random.default_rng(number).integers(0, 200, (*size, 3), dtype=np.uint8)
    image[0, 0] = number
    return image


def save(path: Path, image: np.ndarray) -> None:
    """Write an image without loss, whatever the suffix says (jpg as PNG: readers look into the file)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="BMP" if path.suffix == ".bmp" else "PNG")


def pair(root: Path, lq: str, gt: str, number: int) -> tuple[str, str]:
    """Write scene ``number`` and its degraded image; return their paths."""
    save(root / gt, scene(number))
    save(root / lq, scene(number) + np.uint8(SHIFT))
    return lq, gt
