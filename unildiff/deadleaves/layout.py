"""What is in a dead-leaves scene and where: shapes from far to near, some with parts of their own.

Axis letters: N shapes. Coordinates are in sides of the image: x to the right, y down, both 0 to 1 inside it.
Sizes follow the power law of scale-free scenes (density of radius r as r^-3; Lee, Mumford and Huang 2001). Two
layouts: before a wall, shapes lie in random order of depth; with a horizon, what reaches lower in the image is nearer.
"""

import math
from dataclasses import dataclass

import numpy as np

from unildiff.deadleaves.colours import GROUNDS, SKIES, WALLS, luma, palette, vary
from unildiff.deadleaves.outlines import BAR, BLOB, BOX, DISC, LEAF, SHAPES, VARIANTS, place
from unildiff.deadleaves.textures import TEXTURE_NAMES, tile_kinds

LIMIT = 250
"""Most shapes of a scene, backdrops included: labels are uint8."""
UPPER, LOWER, FIRST = 0, 1, 2
"""Labels of the upper backdrop (sky or wall), of the lower one (ground), and of the first shape."""
SMALLEST, LARGEST = (0.02, 0.25), 0.6
"""Bounds of the smallest size of a scene, and the largest size, before parts and stretching."""
FLOOR_DEPTH = (0.05, 0.8)
"""Depth of the ground at the horizon and at the bottom of the image."""

SHAPE = np.dtype(
    [
        ("kind", np.intp),  # index into SHAPES
        ("variant", np.intp),  # which outline of the kind
        ("centre", np.float64, 2),
        ("size", np.float64, 2),  # half width and half height
        ("angle", np.float64),  # radians
        ("depth", np.float64),  # 0 to 1, near = 1; the ground's own depth varies and is not here
        ("colour", np.float64, 3),  # sRGB, 0 to 1
        ("tile", np.intp),  # of the texture atlas
        ("contrast", np.float64),  # how strongly the texture shows
        ("part", np.bool_),  # of another shape
    ]
)


@dataclass(frozen=True)
class Layout:
    """A scene: where its horizon is, and its shapes."""

    horizon: float
    """y of the horizon in the middle of the image; 1 where there is none."""
    rise: float
    """How much the horizon falls over the image's width."""
    shapes: np.ndarray
    """(N,) of dtype ``SHAPE`` in painting order, from far to near; the first two are the backdrops."""


_BUSY = (3, 8, 8, 25, 25, 60, 60, 110)  # about how many shapes, parts aside


def sample_sizes(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Return sizes between two bounds whose density falls as size to the power -3."""
    return np.asarray(low * (1 - rng.random(count) * (1 - (low / high) ** 2)) ** -0.5)


def sample_layout(rng: np.random.Generator) -> Layout:
    """Return a scene's shapes."""
    horizon = float(rng.uniform(0.2, 0.85)) if rng.random() < 0.5 else 1.0
    busy = _BUSY[rng.integers(0, len(_BUSY))]
    count = FIRST + max(1, int(busy * rng.uniform(0.6, 1.4)))
    colours = palette(rng)
    shapes = np.zeros(count, SHAPE)
    shapes["kind"] = kinds = _kinds(rng, count)
    shapes["variant"] = rng.integers(0, VARIANTS, count)
    half = sample_sizes(rng, count, float(np.clip(rng.uniform(0.15, 0.5) / math.sqrt(busy), *SMALLEST)), LARGEST)
    bar = kinds == BAR
    squash = np.where(bar, rng.uniform(0.02, 0.16, count), np.minimum(np.exp(rng.normal(-0.2, 0.35, count)), 1.3))
    shapes["size"][:, 0] = half * np.where(bar, rng.uniform(1, 2.5, count), 1)
    shapes["size"][:, 1] = np.maximum(half * squash, 0.004)
    shapes["angle"] = rng.uniform(0, 2 * math.pi, count)
    if rng.random() < 0.65:  # built or hanging things stand upright
        upright = rng.integers(0, 2, count) * (math.pi / 2) + rng.normal(0, 0.02, count)
        straight = (kinds == BOX) | bar | (rng.random(count) < 0.4)
        shapes["angle"] = np.where(straight, upright, shapes["angle"])
    shapes["centre"] = rng.uniform(-0.08, 1.08, (count, 2))
    if horizon < 1:  # most stand on the ground, some of them along the horizon: hills, woods, houses
        chance = rng.random(count)
        along = (0.0, 0.25, 0.6)[rng.integers(0, 3)]
        standing = horizon + rng.random(count) * (1.15 - horizon) - half
        shapes["centre"][:, 1] = np.where(chance < 0.85, standing, shapes["centre"][:, 1])
        shapes["centre"][:, 1] = np.where(
            chance < along, horizon - rng.uniform(-0.2, 0.7, count) * half, shapes["centre"][:, 1]
        )
    shapes["depth"] = _depth(rng, horizon, shapes)
    shapes["colour"] = vary(rng, colours[rng.integers(0, len(colours), count)], 0.6)
    total = len(tile_kinds())
    favourites = rng.integers(0, total, 5)[rng.integers(0, 5, count)]
    shapes["tile"] = np.where(rng.random(count) < 0.75, favourites, rng.integers(0, total, count))
    shapes["contrast"] = np.exp(rng.normal(-0.9, 0.6, count)) * np.where(rng.random(count) < 0.4, 0.2, 1)
    _set_backdrops(rng, horizon, shapes)
    shapes = shapes[np.argsort(shapes["depth"], kind="stable")]
    shapes = _add_parts(rng, shapes, colours)
    _darken_tiny_discs(shapes)
    return Layout(horizon, float(rng.normal(0, 0.03)), shapes)


def _kinds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return a kind for each shape (N,); a scene prefers some kinds to others."""
    shares = rng.exponential(1, len(SHAPES)) ** 1.5
    return np.searchsorted(np.cumsum(shares / shares.sum())[:-1], rng.random(count))


def floor_depth(horizon: float, y: np.ndarray) -> np.ndarray:
    """Return the depth of the ground at heights y below a horizon, near = bright."""
    low, high = FLOOR_DEPTH
    return np.asarray(low + (high - low) * np.clip((y - horizon) / (1 - horizon), 0, 1))


def _depth(rng: np.random.Generator, horizon: float, shapes: np.ndarray) -> np.ndarray:
    """Return depths (N,): random before a wall, else that of the ground where a shape ends below, or a little nearer."""
    if horizon == 1:
        return 0.25 + 0.7 * rng.random(len(shapes))
    lowest = outline(shapes, 1.0)[..., 1].max(axis=1)
    return floor_depth(horizon, lowest) + 0.02 + 0.13 * rng.random(len(shapes))


def outline(shapes: np.ndarray, side: float) -> np.ndarray:
    """Return corners x, y (N, P, 2) of shapes in a drawing whose side is ``side`` pixels."""
    return place(shapes["kind"], shapes["variant"], shapes["centre"] * side, shapes["size"] * side, shapes["angle"])


def _set_backdrops(rng: np.random.Generator, horizon: float, shapes: np.ndarray) -> None:
    """Make the first two shapes the sky or wall and the ground, in place."""
    outdoors = horizon < 1
    behind = SKIES if outdoors else WALLS
    pair = np.stack((behind[rng.integers(0, len(behind))], GROUNDS[rng.integers(0, len(GROUNDS))]))
    shapes["colour"][:FIRST] = vary(rng, pair, 0.25)
    shapes["depth"][:FIRST] = (0 if outdoors else rng.uniform(0, 0.2), FLOOR_DEPTH[0] if outdoors else 0.21)
    shapes["kind"][:FIRST] = BOX
    shapes["size"][:FIRST] = 1.5
    shapes["centre"][:FIRST] = ((0.5, 0.3), (0.5, 0.8))
    shapes["contrast"][UPPER] = np.exp(rng.normal(-1.9, 0.7))
    kinds = tile_kinds()
    calm = ("smooth", "smooth", "cloudy") if outdoors else ("smooth", "smooth", "cloudy", "rough", "brick", "wooden")
    firm = ("rough", "leafy", "furry", "grainy", "smooth", "brick", "cloudy")
    for label, choice in ((UPPER, calm), (LOWER, firm)):
        tiles = np.flatnonzero(kinds == TEXTURE_NAMES.index(choice[rng.integers(0, len(choice))]))
        shapes["tile"][label] = tiles[rng.integers(0, len(tiles))]


def _add_parts(rng: np.random.Generator, shapes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the shapes with rows, grids and scatters of like parts upon some of the larger ones.

    A part lies right upon its owner: nearer than it and the parts before it, farther than the next shape.
    """
    larger = FIRST + np.flatnonzero(shapes["size"][FIRST:].min(axis=1) > 0.05)
    groups = int(rng.integers(0, 10)) if len(larger) else 0
    if groups == 0:
        return shapes
    arrangements = [_arrangement(rng) for _ in range(groups)]
    owners = larger[rng.integers(0, len(larger), groups)]
    group = np.arange(groups).repeat([len(places) for places in arrangements])[: LIMIT - len(shapes)]
    places = np.concatenate(arrangements)[: len(group)]
    count = len(group)
    owned = shapes[owners[group]]

    joined = np.empty(len(shapes) + count, SHAPE)
    joined[: len(shapes)] = shapes
    parts = joined[len(shapes) :]
    angle = np.where((owned["kind"] == BOX) | (owned["kind"] == BAR) | (owned["kind"] == LEAF), owned["angle"], 0)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = (0.75 * places[:, :2] * owned["size"]).T
    parts["centre"] = owned["centre"] + np.stack((x * cos - y * sin, x * sin + y * cos), axis=-1)
    turned = (places[:, 4] != 0)[:, None]
    span = np.where(turned, np.sqrt(owned["size"].prod(axis=1))[:, None], owned["size"])
    parts["size"] = np.maximum(places[:, 2:4] * span, 0.003)
    parts["angle"] = angle + places[:, 4]
    parts["kind"] = np.array((BOX, BOX, BAR, DISC, LEAF, BLOB))[rng.integers(0, 6, groups)][group]
    parts["variant"] = rng.integers(0, VARIANTS, groups)[group]
    # No part reaches lower than its owner: where there is ground, it would be farther than what it covers.
    lowest = outline(shapes, 1.0)[owners[group], :, 1].max(axis=1)
    parts["centre"][:, 1] -= np.maximum(outline(parts, 1.0)[..., 1].max(axis=1) - lowest, 0)
    other = colours[rng.integers(0, len(colours), groups)]
    base = np.where(rng.random((groups, 1)) < 0.6, other, shapes["colour"][owners])
    base = vary(rng, base * np.array((0.45, 0.7, 1.3))[rng.integers(0, 3, (groups, 1))], 0.2)
    parts["colour"] = vary(rng, base[group], np.array((0.02, 0.12, 0.3))[rng.integers(0, 3, groups)][group])
    parts["tile"] = np.where(rng.random(groups)[group] < 0.5, owned["tile"], 0)
    parts["contrast"] = 0.15 * rng.random(groups)[group]
    parts["part"] = True
    following = np.append(shapes["depth"][1:], 1.0)[owners[group]]
    parts["depth"] = owned["depth"] + np.linspace(0.05, 0.95, count) * (following - owned["depth"])
    return joined[np.argsort(joined["depth"], kind="stable")]


def _arrangement(rng: np.random.Generator) -> np.ndarray:
    """Return x, y, half width, half height, turn (count, 5) of parts within an owner that spans -1 to 1."""
    style = rng.random()
    if style < 0.4:  # a grid or row, with gaps (windows, tiles, planks) or overlapping (roofs, scales)
        across, down = (int(n) for n in rng.integers(1, 8, 2))
        columns, rows = ((np.arange(n) + 0.5) * (2 / n) - 1 for n in (across, down))
        fill = rng.uniform(0.3, 0.85, 2) if rng.random() < 0.7 else rng.uniform(0.9, 1.5, 2)
        x, y = np.tile(columns, down), np.repeat(rows, across)
        width, height = fill * (0.75 / across, 0.75 / down)
        turn: float | np.ndarray = 0.0
    elif style < 0.6:  # rings, the outer ones first: flowers, wheels, crowns
        petals, rings = int(rng.integers(5, 15)), int(rng.integers(1, 4))
        angles = np.arange(petals * rings) * (2 * math.pi / petals) + np.repeat(np.arange(rings), petals) * 0.7
        reach = np.repeat(1 - np.arange(rings) / rings, petals)
        x, y = 0.8 * reach * np.cos(angles), 0.8 * reach * np.sin(angles)
        width, height = 0.45 * reach, np.minimum(2.6 * reach / petals, 0.45) * rng.uniform(0.6, 1.2)
        turn = angles
    else:  # anywhere: one to three marks, or many small ones
        few = style < 0.8
        count = int(rng.integers(1, 4) if few else rng.integers(6, 36))
        x, y = rng.uniform(-1, 1, (2, count))
        width = (rng.uniform(0.1, 0.6) if few else rng.uniform(0.03, 0.14)) * np.exp(rng.normal(0, 0.3, count))
        height = width * rng.uniform(0.4, 1.2)
        turn = rng.uniform(0, math.pi, count) * (rng.random() < 0.5)
    places = np.empty((len(x), 5))
    for column, values in enumerate((x, y, width, height, turn)):
        places[:, column] = values
    return places


def _darken_tiny_discs(shapes: np.ndarray) -> None:
    """Cap the brightness of tiny round shapes, in place: bright ones would be snow to whoever learns from these scenes."""
    tiny = (shapes["size"].max(axis=1) < 0.04) & (shapes["kind"] <= BLOB)
    shapes["colour"] *= np.where(tiny, np.minimum(1, 0.4 / np.maximum(luma(shapes["colour"]), 1e-3)), 1.0)[:, None]
