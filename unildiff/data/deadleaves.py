"""Procedural pictures for training: occluding textured shapes with the statistics of photographs.

Axis letters: H/W pixels of the picture, S side of the drawing (1.5 times the picture's), N shapes.
A drawing is a map of labels, painted from far to near; every property of a shape (colour, texture, shading, depth) is
a table over labels, so that the cost does not depend on the number of shapes. The dead-leaves model with power-law
sizes (Ruderman 1997; Lee, Mumford and Huang 2001) gives the spectrum; layout, colours and optics are our choice.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unildiff.data.deadleaves_outlines import BAR, BLOB, BOX, DISC, SHAPES, place
from unildiff.data.deadleaves_textures import TEXTURE_NAMES, TILE, atlas, tile_kinds, tile_origin
from unildiff.data.keys import generator

Map = NDArray[np.float32]
Array = NDArray[np.float64]

SUPERSAMPLING = 1.5
_LIMIT = 250  # labels are uint8
_COLOURS = ("red", "orange", "brown", "yellow", "green", "blue", "purple", "pink", "black", "grey", "white")
_NUMBERS = ("", "a", "two", "three", "several", "many")
_BACKDROPS = ("sky", "wall", "ground", "field")
_WORDS = ("photograph", "of", "and", "before", "large", "small", "dark", "bright", "nothing")
VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys(
        (*_WORDS, *_NUMBERS[1:], *_COLOURS, *TEXTURE_NAMES, *(w for pair in SHAPES for w in pair), *_BACKDROPS)
    )
)
"""Every word that captions use."""


@dataclass(frozen=True)
class Scene:
    """A picture uint8 (H, W, 3), its depth float32 (H, W) in [0, 1] with 1 the nearest, and a caption of its content."""

    image: NDArray[np.uint8]
    depth: Map
    caption: str


@dataclass
class _Leaves:
    """The shapes of a picture from far to near; label 0 and 1 are the upper and the lower backdrop."""

    kinds: NDArray[np.intp]
    colours: Array  # (N, 3) in [0, 1]
    tiles: NDArray[np.intp]  # (N,)
    depth: Array  # (N,) in [0, 1]
    sizes: Array  # (N, 2) in pixels of the drawing
    centres: Array  # (N, 2)


def sample_sizes(rng: np.random.Generator, count: int, low: float, high: float) -> Array:
    """Return sizes between two bounds whose density falls as size to the power -3, under which scenes are scale-free."""
    return np.asarray(low * (1 - rng.random(count) * (1 - (low / high) ** 2)) ** -0.5)


def render(key: int, size: int = 128) -> Scene:
    """Return the scene of a key, a pure function of (key, size).

    Args:
        key: decides everything.
        size: side of the picture in pixels, at least 16.

    Raises:
        ValueError: for a smaller size.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")
    rng = generator(key, "deadleaves")
    side = round(size * SUPERSAMPLING)
    horizon = float(rng.uniform(0.3, 0.9)) if rng.random() < 0.6 else 1.0
    leaves = _sample_leaves(rng, side)
    labels = _draw(rng, leaves, side, horizon)
    image = _paint(rng, leaves, labels)
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    floor = np.float32(0.3) * np.clip((rows - horizon) / max(1e-3, 1 - horizon), 0, 1)
    table = np.zeros((1, 256), np.float32)
    table[0, : len(leaves.depth)] = leaves.depth
    depth = np.where(labels < 2, floor, cv2.LUT(labels, table))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    depth = cv2.resize(depth, (size, size), interpolation=cv2.INTER_AREA)
    image = _light(rng, image, depth)
    image = _lens(rng, image, depth)
    return Scene(_develop(rng, image), depth, _caption(leaves, labels, horizon))


def _sample_leaves(rng: np.random.Generator, side: int) -> _Leaves:
    count = min(
        _LIMIT, int(rng.choice((4, 12, 40, 90, 160), p=(0.1, 0.2, 0.25, 0.25, 0.2)) * rng.uniform(0.6, 1.4)) + 2
    )
    busy = math.sqrt(min(1.0, 20 / count))
    half = sample_sizes(rng, count, 0.015 * side + 0.12 * side * busy**2, 0.5 * side)
    weights = rng.dirichlet(np.full(len(SHAPES), 0.6))
    kinds = rng.choice(len(SHAPES), count, p=weights)
    thin = np.where(kinds == BAR, rng.uniform(0.02, 0.2, count), np.exp(rng.normal(-0.25, 0.35, count)))
    long = np.where(kinds == BAR, rng.uniform(1, 3, count), 1.0)
    sizes = np.stack((half * long, np.maximum(half * np.minimum(thin, 1.3), 0.5)), axis=-1)
    kinds_of_tile = tile_kinds()
    favourites = rng.choice(len(kinds_of_tile), 6)
    tiles = np.where(
        rng.random(count) < 0.75, favourites[rng.integers(0, 6, count)], rng.integers(0, len(kinds_of_tile), count)
    )
    colours = _sample_colours(rng, count)
    # Bright tiny discs would be snow to a restorer that learns from these pictures: they are kept dark.
    tiny = (half < 0.045 * side) & (kinds <= BLOB)
    luma = colours @ (0.299, 0.587, 0.114)
    colours *= np.where(tiny & (luma > 0.5), 0.5 / np.maximum(luma, 1e-6), 1.0)[:, None]
    centres = rng.uniform(-0.08, 1.08, (count, 2)) * side
    depth = 0.32 + 0.68 * np.sort(rng.random(count))
    return _Leaves(kinds, colours, tiles, depth, sizes, centres)


def _sample_colours(rng: np.random.Generator, count: int) -> Array:
    """Return reflectances (N, 3): brightness varies most, then warm against cool, least green against purple."""
    mood = rng.normal(0, (0.06, 0.05, 0.02))
    spread = float(rng.uniform(0.4, 1.0))
    light = rng.beta(1.3, 1.6, count)
    warm = mood[0] + spread * rng.standard_t(3, count) * 0.09
    green = mood[1] + spread * rng.standard_t(3, count) * 0.045
    vivid = 0.35 + light
    colours = light[:, None] + vivid[:, None] * np.stack((warm - 0.5 * green, green, -warm - 0.5 * green), axis=-1)
    return np.clip(colours, 0.01, 1.0)


def _draw(rng: np.random.Generator, leaves: _Leaves, side: int, horizon: float) -> NDArray[np.uint8]:
    """Return labels (S, S), painted from far to near."""
    labels = np.zeros((side, side), np.uint8)
    tilt = rng.normal(0, 0.02) * side
    left, right = horizon * side - tilt, horizon * side + tilt
    if horizon < 1:
        ground = np.array([[0, left], [side, right], [side, side], [0, side]])
        cv2.fillPoly(labels, [ground.astype(np.int32)], 1)
    count = len(leaves.kinds)
    upright = rng.random() < 0.5
    angles = rng.uniform(0, math.pi, count)
    if upright:
        straight = np.isin(leaves.kinds, (BOX, BAR))
        angles = np.where(straight, rng.integers(0, 2, count) * (math.pi / 2) + rng.normal(0, 0.02, count), angles)
    corners = place(leaves.kinds, rng.integers(0, 24, count), leaves.centres, leaves.sizes, angles)
    for label in range(2, count):
        cv2.fillPoly(labels, [corners[label]], label, cv2.LINE_8, 4)
    if rng.random() < 0.5:  # ragged outlines, as of foliage, fur and rock
        wave = np.float32(rng.uniform(0.3, 1.0) * rng.choice((2.0, 5.0)))
        rows, columns = np.mgrid[:side, :side].astype(np.float32)
        dx, dy = (_crop(rng, side) for _ in range(2))
        labels = cv2.remap(
            labels, columns + wave * dx, rows + wave * dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
    return labels


def _crop(rng: np.random.Generator, side: int) -> Map:
    """Return a piece (S, S) of a rough tile, standard deviation about 1."""
    number = np.asarray(8 + rng.integers(0, 5))
    left, top = tile_origin(number)
    x, y = rng.integers(0, max(1, TILE - side), 2)
    piece = atlas()[int(top + y) : int(top + y) + min(side, TILE), int(left + x) : int(left + x) + min(side, TILE)]
    piece = piece.astype(np.float32) / 45 - np.float32(128 / 45)
    return piece if side <= TILE else cv2.resize(piece, (side, side), interpolation=cv2.INTER_LINEAR)


def _paint(rng: np.random.Generator, leaves: _Leaves, labels: NDArray[np.uint8]) -> Map:
    """Return the drawing (S, S, 3): colour, texture and shading of each label."""
    side = len(labels)
    count = len(leaves.kinds)
    x = np.linspace(0, 1, side, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, side, dtype=np.float32)[:, None]

    def at(values: Array | Map) -> Map:
        table = np.zeros((1, 256), np.float32)
        table[0, :count] = values
        return np.asarray(cv2.LUT(labels, table))

    # Texture: each shape has its own turn, scale and place in the atlas.
    scale = np.exp(rng.uniform(math.log(0.35), math.log(1.3), count)) * 192
    turn = rng.uniform(0, 2 * math.pi, count) * (rng.random(count) < 0.6)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    left, top = tile_origin(leaves.tiles)
    half_x, half_y = 0.5 * (cos - sin), 0.5 * (sin + cos)
    a, b = at(cos), at(sin)
    u = a * x - b * y + at(TILE / 2 - half_x)
    v = b * x + a * y + at(TILE / 2 - half_y)
    u = np.clip(u, 0, TILE - 1) + at(left)
    v = np.clip(v, 0, TILE - 1) + at(top)
    grain = cv2.remap(atlas(), u, v, cv2.INTER_LINEAR).astype(np.float32)
    grain -= 128
    grain *= 1 / 45
    # Shading: a slope and a bulge around each shape's centre.
    centre = leaves.centres / side
    reach = np.maximum(leaves.sizes.max(axis=1) / side, 0.03)
    toward = rng.uniform(0, 2 * math.pi)
    slope = np.abs(rng.normal(0, 0.22, count)) / reach
    slope_x, slope_y = slope * math.cos(toward), slope * math.sin(toward)
    bulge = np.where(np.isin(leaves.kinds, (DISC, BLOB)), rng.uniform(0, 0.5, count), rng.uniform(-0.1, 0.1, count))
    bulge /= reach**2
    level = 1 - slope_x * centre[:, 0] - slope_y * centre[:, 1] - bulge * (centre**2).sum(axis=1)
    q = -at(bulge)
    shade = at(level + 2 * bulge * (centre**2).sum(axis=1) * 0) + q * (x * x + y * y)
    shade += at(slope_x + 2 * bulge * centre[:, 0]) * x
    shade += at(slope_y + 2 * bulge * centre[:, 1]) * y
    np.clip(shade, 0.25, 1.6, out=shade)
    # Each channel: base colour, plus the texture towards a second colour.
    depth_of_texture = np.exp(rng.normal(-1.7, 0.8, count))
    depth_of_texture[:2] *= 0.5
    second = leaves.colours * np.clip(1 + rng.normal(0, 0.25, (count, 3)), 0.3, 2) * depth_of_texture[:, None]
    channels = [(at(leaves.colours[:, c]) + at(second[:, c]) * grain) * shade for c in range(3)]
    return np.asarray(cv2.merge(channels))


def _light(rng: np.random.Generator, image: Map, depth: Map) -> Map:
    """Return the picture under uneven light, with soft shadows cast by nearer shapes."""
    size = len(image)
    field = rng.normal(0, rng.uniform(0.05, 0.35), (3, 3)).astype(np.float32)
    light = np.exp(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC))
    strength = float(rng.uniform(0, 0.6))
    shift = rng.uniform(-0.05, 0.05, 2) * size
    move = np.array([[1, 0, shift[0]], [0, 1, abs(shift[1])]], np.float32)
    cast = cv2.warpAffine(depth, move, (size, size), borderMode=cv2.BORDER_REPLICATE)
    cast = np.clip((cast - depth) * 6, 0, 1)
    blur = int(rng.integers(1, max(2, size // 24))) * 2 + 1
    light *= 1 - strength * cv2.blur(cast, (blur, blur))
    return image * light[..., None]


def _lens(rng: np.random.Generator, image: Map, depth: Map) -> Map:
    """Return the picture blurred where it lies out of the focal plane."""
    size = len(image)
    strength = float(rng.choice((0.0, 0.6, 2.0, 5.0), p=(0.4, 0.3, 0.2, 0.1)))
    if strength == 0:
        return image
    blurred = np.minimum(np.abs(depth - np.float32(rng.uniform(0.2, 1))) * strength, 2)[..., None]
    soft = cv2.GaussianBlur(image, (0, 0), 1.2 * size / 128)
    softer = cv2.GaussianBlur(soft, (0, 0), 2.6 * size / 128)
    first = np.minimum(blurred, 1)
    image = image + first * (soft - image)
    return image + (blurred - first) * (softer - image)


def _develop(rng: np.random.Generator, image: Map) -> NDArray[np.uint8]:
    """Return 8 bits: exposure, contrast, colour cast, a little sensor noise."""
    mean, std = float(image.mean()), float(image.std())
    contrast = float(np.clip(rng.normal(0.23, 0.045), 0.1, 0.33)) / max(std, 0.05)
    contrast = min(contrast, 2.0)
    exposure = float(np.clip(rng.normal(0.45, 0.1), 0.2, 0.7))
    cast = 1 + rng.normal(0, 0.05) * np.array((1, 0, -1)) + rng.normal(0, 0.02) * np.array((-0.5, 1, -0.5))
    image = (image - np.float32(mean)) * (contrast * cast).astype(np.float32) + (exposure * cast).astype(np.float32)
    noise = float(rng.choice((0.0, 0.006, 0.015), p=(0.5, 0.35, 0.15)))
    if noise:
        image = image + np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _caption(leaves: _Leaves, labels: NDArray[np.uint8], horizon: float) -> str:
    """Return what is in the picture: its three largest kinds of shapes and the backdrop."""
    area = np.bincount(labels.ravel(), minlength=256)
    side = len(labels)
    kinds_of_tile = tile_kinds()
    groups: dict[tuple[int, str], list[int]] = {}
    for label in np.argsort(-area[2 : len(leaves.kinds)])[:24] + 2:
        if area[label] < 0.004 * side * side:
            break
        groups.setdefault((int(leaves.kinds[label]), colour_name(leaves.colours[label])), []).append(int(label))
    largest = sorted(groups.items(), key=lambda item: -sum(int(area[label]) for label in item[1]))[:3]
    parts = []
    for (kind, colour), members in largest:
        big = (
            "large "
            if area[members[0]] > 0.08 * side * side
            else "small "
            if area[members[0]] < 0.015 * side * side
            else ""
        )
        number = _NUMBERS[len(members) if len(members) < 4 else 4 if len(members) < 7 else 5]
        texture = TEXTURE_NAMES[kinds_of_tile[leaves.tiles[members[0]]]]
        parts.append(f"{number} {big}{texture} {colour} {SHAPES[kind][len(members) > 1]}")
    back = f"a {TEXTURE_NAMES[kinds_of_tile[leaves.tiles[0]]]} {colour_name(leaves.colours[0])} "
    back += "wall" if horizon == 1 else "sky"
    things = " and ".join(parts) if parts else "nothing"
    return f"a photograph of {things} before {back}"


def colour_name(colour: Array) -> str:
    """Return the name of an RGB colour in [0, 1]."""
    high, low = float(colour.max()), float(colour.min())
    if high < 0.15:
        return "black"
    if high - low < 0.25 * high or high - low < 0.08:
        return "white" if low > 0.72 else "grey"
    red, green, blue = (float(c) for c in colour)
    hue = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    if 15 <= hue < 50:
        return "orange" if high > 0.65 else "brown"
    for limit, name in ((15, "red"), (70, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (345, "pink")):
        if hue < limit:
            return name
    return "red"
