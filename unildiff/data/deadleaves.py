"""Generated training pictures: occluding textured shapes with the statistics of photographs, with depth and caption.

Axis letters: S side of a picture, H/W pixels of a shape's bounding box.
A dead-leaves model (Lee, Mumford & Huang 2001; sizes by a power law) with what photographs have besides: a backdrop of
sky, ground or wall, shading across and around shapes, shadows at their feet, long thin things, textures over several
scales, blur away from the focal plane, a colour cast and a tone curve. Ranges are our choice; tests compare the
statistics with those of the three validation photographs.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unildiff.data.deadleaves_textures import BANK_SIDE, COLOURS, NAMES, draw_colour, texture_bank
from unildiff.data.keys import generator

SHAPES = ("disc", "polygon", "blob", "bar", "pole")
BACKDROPS = ("sky", "ground", "wall", "horizon")
VOCABULARY: tuple[str, ...] = (
    *("a", "photograph", "of", "and", "before", "with", "small", "large", "dark", "bright", "many", "few", "things"),
    *SHAPES,
    *BACKDROPS,
    *COLOURS,
    *NAMES,
)
SIZE_EXPONENT = 3.0
"""Density of radii falls with the third power: then any scale of the picture looks alike (Lee et al. 2001)."""


@dataclass
class Scene:
    """A picture, uint8 (S, S, 3); its depth, float32 (S, S) in [0, 1], near = bright; what is in it."""

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    caption: str


def draw_radius(rng: np.random.Generator, smallest: float, largest: float) -> float:
    """Return a radius with density r^-3 between two bounds (inverse of the cumulative distribution)."""
    low, high = smallest ** (1 - SIZE_EXPONENT), largest ** (1 - SIZE_EXPONENT)
    return float((low + rng.random() * (high - low)) ** (1 / (1 - SIZE_EXPONENT)))


def render(key: int, size: int = 128) -> Scene:
    """Return the scene of a key: a pure function of (key, size).

    Args:
        key: any sample key.
        size: side in pixels, at least 16.
    """
    if size < 16:
        raise ValueError(f"size is {size}; a scene needs at least 16 pixels")
    rng = generator(key, "scene")
    cast = (1 + rng.normal(0, 0.06) * np.array([1, 0, -1]) + rng.normal(0, 0.02, 3)).astype(np.float32)
    cast *= np.float32(np.exp(rng.normal(0, 0.25)))
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    image, depth, backdrop = _backdrop(rng, rows, size, cast)
    number = int(np.clip(np.exp(rng.normal(4.1, 0.7)), 6, 220))
    focus, aperture = float(rng.uniform(0.2, 1.0)), float(rng.exponential(1.0)) * size / 128
    light = rng.normal(0, 1, 2)
    light /= np.linalg.norm(light)
    radii = sorted(draw_radius(rng, 0.025, 0.6) for _ in range(number))
    rng.shuffle(radii)
    biggest: list[tuple[float, str]] = []
    blurred_at = float(rng.uniform(0.3, 0.8)) if rng.random() < 0.4 else 2.0
    for index, radius in enumerate(radii):
        nearness = 0.15 + 0.85 * (index + 1) / number
        if nearness > blurred_at:  # all that is behind lies out of focus
            image = cv2.GaussianBlur(image, (0, 0), 0.4 + aperture)
            blurred_at = 2.0
        blur = min(3.0, 0.25 + 0.6 * aperture * abs(nearness - focus))
        words = _paint(image, depth, rng, radius, nearness, blur, light, cast)
        biggest.append((radius * (0.5 + nearness), words))
    image = _develop(image, rng, columns, rows)
    things = [words for _, words in sorted(biggest, reverse=True)[:2]]
    caption = f"a photograph of {' and '.join(things)} before a {backdrop}"
    return Scene(np.rint(image * 255).astype(np.uint8), np.clip(depth, 0, 1), caption)


def _crop(rng: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.float32], str]:
    bank, names = texture_bank()
    index = int(rng.integers(len(bank)))
    top, left = (int(rng.integers(max(1, BANK_SIDE - side))) for side in (height, width))
    tile = bank[index, top : top + height, left : left + width]
    if tile.shape != (height, width):
        tile = cv2.resize(bank[index], (width, height), interpolation=cv2.INTER_AREA)
    return tile, names[index]


def _backdrop(
    rng: np.random.Generator, rows: NDArray[np.float32], size: int, cast: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    kind = BACKDROPS[int(rng.integers(len(BACKDROPS)))]
    (first, name), (second, _) = draw_colour(rng, cast), draw_colour(rng, cast)
    ramp = np.clip(rows * float(rng.uniform(0.6, 1.6)) + float(rng.normal(0, 0.2)), 0, 1)[..., None]
    if kind in ("sky", "wall"):
        second = first + (second - first) * np.float32(0.35)
    texture = _crop(rng, size, size)[0][..., None]
    strength = np.float32(rng.exponential(0.02 if kind == "sky" else 0.15))
    image = (first * (1 - ramp) + second * ramp) * (1 + strength * texture)
    depth = np.full((size, size), 0.05, np.float32)
    if kind in ("ground", "horizon"):
        start = 0.0 if kind == "ground" else float(rng.uniform(0.25, 0.75))
        below = np.clip((rows - start) * size, 0, 1)  # one pixel of anti-aliasing at the horizon
        ground, name = draw_colour(rng, cast)
        patch = ground * (1 + np.float32(rng.exponential(0.25)) * _crop(rng, size, size)[0][..., None])
        image = image * (1 - below[..., None]) + patch * below[..., None]
        depth = np.maximum(depth, below * (rows - start) / (1 - start + 1e-3) * 0.6)
    return np.ascontiguousarray(image, np.float32), depth.astype(np.float32), f"{name} {kind}"


def _outline(rng: np.random.Generator, shape: str, radius: float) -> NDArray[np.float32]:
    """Return the corners (n, 2) of a shape around the origin, in pixels."""
    if shape in ("bar", "pole"):
        length = radius * float(rng.uniform(2, 7 if shape == "pole" else 3))
        width = radius * float(rng.uniform(0.05, 0.15) if shape == "pole" else rng.uniform(0.2, 0.6))
        corners = np.array([[-length, -width], [length, -width], [length, width], [-length, width]])
    else:
        count = int(rng.integers(3, 8)) if shape == "polygon" else 32
        angles = np.sort(rng.uniform(0, 2 * np.pi, count)) if shape == "polygon" else np.arange(count) * 2 * np.pi / 32
        radii = np.full(count, radius)
        if shape == "polygon":
            radii = radius * rng.uniform(0.6, 1.3, count)
        elif shape == "blob":
            for lobes in (2, 3, 5, 7):
                radii = radii * (1 + rng.uniform(0, 0.5) / lobes**0.5 * np.sin(lobes * angles + rng.uniform(0, 6.3)))
        corners = np.stack([radii * np.cos(angles), radii * np.sin(angles) * rng.uniform(0.4, 1.0)], axis=1)
    # Upright and level things are more common than slanted ones.
    turn = rng.uniform(0, np.pi) if rng.random() < 0.5 else rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(corners @ rotation.T, np.float32)


def _paint(
    image: NDArray[np.float32],
    depth: NDArray[np.float32],
    rng: np.random.Generator,
    radius: float,
    nearness: float,
    blur: float,
    light: NDArray[np.float64],
    cast: NDArray[np.float32],
) -> str:
    """Paint one shape over the picture, in place; only its bounding box is touched. Returns what it is."""
    size = image.shape[0]
    shape = SHAPES[int(rng.choice(len(SHAPES), p=[0.2, 0.25, 0.3, 0.17, 0.08]))]
    corners = _outline(rng, shape, radius * size) + rng.uniform(-0.1, 1.1, 2).astype(np.float32) * size
    margin = 3 * blur + 2
    left, top = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0) + margin), size).astype(int)
    colour, colour_name = draw_colour(rng, cast)
    if radius < 0.06 and shape in ("disc", "blob") and colour.min() > 0.6:
        colour = colour * np.float32(0.5)  # small bright round things are left to the snow
    dark = "dark " if colour.mean() < 0.2 else ("bright " if colour.mean() > 0.7 else "")
    height, width = bottom - top, right - left
    if height < 2 or width < 2:
        return f"a {dark}{colour_name} {shape}"
    mask = np.zeros((height, width), np.uint8)
    fixed = np.round((corners - np.array([left, top], np.float32)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
    opacity = cv2.GaussianBlur(mask.astype(np.float32) * np.float32(1 / 255), (0, 0), blur)
    box = (slice(top, bottom), slice(left, right))
    if rng.random() < 0.4:  # a soft shadow on what lies behind
        shift = light * radius * size * 0.25
        moved = cv2.warpAffine(
            opacity, np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32), (int(width), int(height))
        )
        shadow = cv2.GaussianBlur(moved, (0, 0), 1 + radius * size * 0.08)
        image[box] *= (1 - np.float32(rng.uniform(0.2, 0.7)) * shadow)[..., None]
    ys = (np.arange(top, bottom, dtype=np.float32) - corners[:, 1].mean()) / (radius * size)
    xs = (np.arange(left, right, dtype=np.float32) - corners[:, 0].mean()) / (radius * size)
    shading = 1 + np.float32(rng.exponential(0.25)) * (light[1] * ys[:, None] + light[0] * xs[None])
    texture, texture_name = _crop(rng, int(height), int(width))
    strength = float(rng.exponential(0.22))
    shading = np.clip(shading, 0.3, 1.8) * np.maximum(1 + np.float32(strength) * texture, 0)
    fill = shading.astype(np.float32)[..., None] * colour
    image[box] += opacity[..., None] * (fill - image[box])
    depth[box] += opacity * (np.float32(nearness) - depth[box])
    texture_word = "plain" if strength < 0.05 else texture_name
    length = "large" if radius > 0.2 else "small"
    return f"a {length} {dark}{colour_name} {texture_word} {shape}"


def _develop(
    image: NDArray[np.float32], rng: np.random.Generator, columns: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the picture in [0, 1] after light falloff, tone curve, a little lens blur and grain."""
    slope = rng.normal(0, 0.2, 2)
    image = image * np.exp(slope[0] * (columns - 0.5) + slope[1] * (rows - 0.5)).astype(np.float32)[..., None]
    image = np.clip(image, 0, 1)
    contrast = np.float32(rng.uniform(0, 0.6))
    image = image * (1 - contrast) + contrast * (3 * image**2 - 2 * image**3)
    if (lens := float(rng.uniform(0.1, 0.6))) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), lens)
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.exponential(0.004))
    return np.clip(image + grain, 0, 1)
