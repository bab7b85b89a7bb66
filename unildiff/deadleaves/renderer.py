"""Procedural images for training: occluding textured shapes with the statistics of photographs.

Axis letters: H/W pixels of the image (squares), S side of the drawing.
The dead-leaves model with power-law sizes (Ruderman 1997; Lee, Mumford and Huang 2001) gives the spectrum and the edges;
layout, colours, textures, light and lens are our choice, see the other modules of this package.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from unildiff.deadleaves.camera import develop, focus, light_up
from unildiff.deadleaves.captions import VOCABULARY, describe
from unildiff.deadleaves.layout import sample_layout
from unildiff.deadleaves.paint import SUPERSAMPLING, draw_labels, paint, paint_depth
from unildiff.utils.keys import generator

__all__ = ["MIN_SIDE", "VERSION", "VOCABULARY", "Scene", "render"]

VERSION = 2
"""Counts changes of what ``render`` returns for a key: what was rendered with another version is not the same data."""

MIN_SIDE = 16  # pixels: below it there is nothing to see


@dataclass(frozen=True)
class Scene:
    """An image uint8 (H, W, 3), its depth float32 (H, W) in [0, 1] with 1 the nearest, and a caption of its content."""

    image: np.ndarray
    depth: np.ndarray
    caption: str


def render(key: int, size: int = 128) -> Scene:
    """Return the scene of a key, a pure function of (key, size); the size in pixels is at least ``MIN_SIDE``.

    Raises:
        ValueError: for a smaller size.
    """
    if size < MIN_SIDE:
        raise ValueError(f"size must be at least {MIN_SIDE}, got {size}")
    rng = generator(key, "deadleaves")
    layout = sample_layout(rng)
    labels = draw_labels(rng, layout, round(size * SUPERSAMPLING))
    image = cv2.resize(paint(rng, layout, labels), (size, size), interpolation=cv2.INTER_AREA)
    depth = cv2.resize(paint_depth(layout, labels), (size, size), interpolation=cv2.INTER_AREA)
    image = focus(rng, light_up(rng, image, depth), depth)
    return Scene(develop(rng, image), depth, describe(layout, labels))
