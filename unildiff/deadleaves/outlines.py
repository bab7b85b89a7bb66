"""Outlines of dead-leaves shapes: a bank of unit polygons, made once per process, placed by one affine map a shape.

Axis letters: N shapes, P corners of an outline, K outlines in the bank.
"""

import math
from functools import lru_cache

import numpy as np

CORNERS = 32
_SEED = 7071
VARIANTS = 24
"""Outlines of each shape in the bank."""

# Name in captions (one, many); boxes and bars differ in how they are placed.
SHAPES: tuple[tuple[str, str], ...] = (
    ("disc", "discs"),
    ("blob", "blobs"),
    ("box", "boxes"),
    ("polygon", "polygons"),
    ("leaf", "leaves"),
    ("bar", "bars"),
)
DISC, BLOB, BOX, POLYGON, LEAF, BAR = range(6)


@lru_cache(maxsize=1)
def outlines() -> np.ndarray:
    """Return unit outlines (shapes, 24, P, 2), each of radius about 1 around the origin."""
    rng = np.random.default_rng(_SEED)
    makers = (_disc, _blob, _box, _polygon, _leaf, _bar)
    return np.stack([np.stack([make(rng) for _ in range(VARIANTS)]) for make in makers]).astype(np.float32)


def place(
    kinds: np.ndarray, variants: np.ndarray, centres: np.ndarray, sizes: np.ndarray, angles: np.ndarray
) -> np.ndarray:
    """Return corners x, y of placed outlines, (N, P, 2) in pixels.

    Kinds (N,) are indices into ``SHAPES``, variants (N,) count outlines of a kind, centres (N, 2) are x and y in pixels, sizes
    (N, 2) half width and half height in pixels, angles (N,) in radians.
    """
    unit = outlines()[kinds, variants % VARIANTS] * sizes[:, None, :]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x = unit[..., 0] * cos - unit[..., 1] * sin + centres[:, None, 0]
    y = unit[..., 0] * sin + unit[..., 1] * cos + centres[:, None, 1]
    return np.stack((x, y), axis=-1)


def _turns() -> np.ndarray:
    return np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)


def _polar(radius: np.ndarray) -> np.ndarray:
    turns = _turns()
    return np.stack((radius * np.cos(turns), radius * np.sin(turns)), axis=-1)


def _resample(corners: np.ndarray) -> np.ndarray:
    """Return P points along a closed polygon, its corners among them (approximately equal steps)."""
    each = np.full(len(corners), CORNERS // len(corners))
    each[: CORNERS - each.sum()] += 1
    following = np.roll(corners, -1, axis=0)
    sides = [
        start + (stop - start) * np.linspace(0, 1, count, endpoint=False)[:, None]
        for start, stop, count in zip(corners, following, each, strict=True)
    ]
    return np.concatenate(sides)


def _disc(rng: np.random.Generator) -> np.ndarray:
    return _polar(np.full(CORNERS, 1.0))


def _blob(rng: np.random.Generator) -> np.ndarray:
    turns = _turns()
    radius = np.ones(CORNERS)
    for order in range(2, 8):
        radius += rng.normal(0, 0.32 / order**0.8) * np.cos(order * turns + rng.uniform(0, 2 * math.pi))
    return _polar(np.clip(radius, 0.25, 1.6))


def _box(rng: np.random.Generator) -> np.ndarray:
    power = rng.choice((2.5, 4.0, 40.0, 40.0))  # a superellipse: from cushion to box
    turns = _turns()
    if power > 20:
        skew = rng.normal(0, 0.12, (4, 2))
        return _resample(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.85 + skew * rng.integers(0, 2))
    return _polar((np.abs(np.cos(turns)) ** power + np.abs(np.sin(turns)) ** power) ** (-1 / power))


def _polygon(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(3, 8))
    turns = np.sort(rng.uniform(0, 2 * math.pi, count) * 0.5 + np.linspace(0, 2 * math.pi, count, endpoint=False))
    radius = rng.uniform(0.5, 1.3, count)
    return _resample(np.stack((radius * np.cos(turns), radius * np.sin(turns)), axis=-1))


def _leaf(rng: np.random.Generator) -> np.ndarray:
    along = np.linspace(-1, 1, CORNERS // 2, endpoint=False)
    width = rng.uniform(0.25, 0.5) * (1 - along**2) ** rng.uniform(0.6, 1.2)
    bend = rng.uniform(-0.3, 0.3) * (1 - along**2)
    upper = np.stack((along, bend + width), axis=-1)
    lower = np.stack((-along, bend[::-1] - width[::-1]), axis=-1)
    return np.concatenate((upper, lower))


def _bar(rng: np.random.Generator) -> np.ndarray:
    taper = rng.uniform(0.4, 1.0)
    return _resample(np.array([[-1, -1], [1, -taper], [1, taper], [-1, 1]]))
