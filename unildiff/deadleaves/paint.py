"""Drawing of a dead-leaves scene: labels from far to near, then each property of a shape as a table over labels.

Axis letters: H/W pixels of the image, S side of the drawing, which is 1.5 times as large for smooth edges.
The cost of colour, texture, shading and depth does not depend on the number of shapes. Our own design.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from unildiff.deadleaves.layout import FIRST, LOWER, UPPER, Layout, floor_depth, outline
from unildiff.deadleaves.outlines import BLOB, DISC
from unildiff.deadleaves.textures import TILE, atlas, rough_piece, tile_origin

SUPERSAMPLING = 1.5

_LookUp = Callable[[np.ndarray], np.ndarray]


def draw_labels(rng: np.random.Generator, layout: Layout, side: int) -> np.ndarray:
    """Return labels, uint8 (S, S): which shape is seen at each pixel."""
    shapes = layout.shapes
    labels = np.zeros((side, side), np.uint8)
    if layout.horizon < 1:
        left, right = (layout.horizon + sign * layout.rise / 2 for sign in (-1, 1))
        ground = np.array([[0, left], [1, right], [1, 1.1], [0, 1.1]]) * side
        cv2.fillPoly(labels, [ground.astype(np.int32)], LOWER)
    corners = (outline(shapes, side) * 16).astype(np.int32)
    for label in range(FIRST, len(shapes)):
        cv2.fillPoly(labels, [corners[label]], label, cv2.LINE_8, 4)
    if rng.random() < 0.5:  # ragged outlines, as of foliage, fur and rock
        wave = np.float32((0.004, 0.008, 0.016)[rng.integers(0, 3)] * side * rng.uniform(0.5, 1))
        pixels = np.arange(side, dtype=np.float32)
        columns = wave * rough_piece(rng, side) + pixels
        rows = wave * rough_piece(rng, side) + pixels[:, None]
        ragged = cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(ragged, np.uint8)
    return labels


def paint(rng: np.random.Generator, layout: Layout, labels: np.ndarray) -> np.ndarray:
    """Return the drawing, float32 (S, S, 3), about 0 to 1: colour, texture and shading of each label."""
    shapes = layout.shapes
    x = np.linspace(0, 1, len(labels), dtype=np.float32)[None, :]
    y = x.T

    def at(values: np.ndarray) -> np.ndarray:
        return _look_up(labels, values)

    shade = _shading(rng, shapes, at, x, y)
    grain = _texture(rng, layout, labels, at, x, y)
    # The texture mixes towards a second colour: mostly a brighter or darker first one, partly another shape's.
    colour = shapes["colour"]
    second = colour * np.clip(1 + rng.normal(0, 0.15, colour.shape), 0.3, 2)
    second += rng.uniform(0, 0.5, (len(shapes), 1)) * (rng.permutation(colour) - colour)
    second *= shapes["contrast"][:, None]
    grain *= shade
    return np.asarray(cv2.merge([at(colour[:, c]) * shade + at(second[:, c]) * grain for c in range(3)]))


def paint_depth(layout: Layout, labels: np.ndarray) -> np.ndarray:
    """Return the depth, float32 (S, S) in [0, 1], near = bright."""
    depth = _look_up(labels, layout.shapes["depth"])
    if layout.horizon < 1:
        floor = floor_depth(layout.horizon, (np.arange(len(labels)) + 0.5) / len(labels)).astype(np.float32)
        np.copyto(depth, floor[:, None], where=labels == LOWER)
    return depth


def _look_up(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    table = np.zeros((1, 256), np.float32)
    table[0, : len(values)] = values
    return np.asarray(cv2.LUT(labels, table))


def _fold(coordinate: np.ndarray) -> np.ndarray:
    """Return a coordinate mirrored back into a tile at its borders."""
    return np.asarray(np.abs(np.mod(coordinate, np.float32(2 * TILE - 2)) - np.float32(TILE - 1)))


def _shading(rng: np.random.Generator, shapes: np.ndarray, at: _LookUp, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the brightness within shapes: a slope along the light, and for round ones a bulge towards it."""
    count = len(shapes)
    toward = rng.uniform(0, 2 * math.pi)
    light = np.array([math.cos(toward), math.sin(toward)])
    reach = np.maximum(shapes["size"].max(axis=1), 0.03)
    slope = rng.normal(0.12, 0.2, count) / reach
    slope[UPPER] = rng.normal(0, 0.35)
    slope[LOWER] = rng.normal(0, 0.2)
    round_ones = (shapes["kind"] == DISC) | (shapes["kind"] == BLOB)
    bulge = np.where(round_ones, rng.uniform(0, 0.55, count), rng.uniform(-0.1, 0.15, count)) / reach**2
    centre = shapes["centre"] + 0.3 * reach[:, None] * light * round_ones[:, None]
    along = slope[:, None] * light
    # 1 + along (p - c) - bulge |p - c|^2, sorted by powers of p
    linear = along + 2 * bulge[:, None] * centre
    level = 1 - (along * centre).sum(axis=1) - bulge * (centre**2).sum(axis=1)
    shade = at(level) - at(bulge) * (x * x + y * y)
    shade += at(linear[:, 0]) * x
    shade += at(linear[:, 1]) * y
    return np.asarray(np.clip(shade, 0.3, 1.5, out=shade))


def _texture(
    rng: np.random.Generator, layout: Layout, labels: np.ndarray, at: _LookUp, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return the texture, float32 (S, S), deviation about 1: each shape has its own turn, scale and place in its tile."""
    shapes = layout.shapes
    count, side = len(shapes), len(labels)
    scale = np.exp(rng.uniform(math.log(0.35), math.log(1.2), count)) * side
    turn = np.where(rng.random(count) < 0.6, rng.uniform(0, 2 * math.pi, count), shapes["angle"])
    turn[:FIRST] = 0
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    left, top = tile_origin(shapes["tile"])
    a, b = at(cos), at(sin)
    u = a * x - b * y + at((TILE - cos + sin) / 2)
    v = b * x + a * y + at((TILE - cos - sin) / 2)
    if side * 1.2 * math.sqrt(2) > TILE:
        u, v = _fold(u), _fold(v)
    if layout.horizon < 1:  # the ground recedes: its texture shrinks towards the horizon
        first = max(0, int((layout.horizon - abs(layout.rise) - 0.05) * side))  # no ground above this row
        below = np.maximum(y[first:] - np.float32(layout.horizon), 0) + np.float32(0.12)
        nearness = np.float32(scale[LOWER] * (1.12 - layout.horizon)) / below
        lower = labels[first:] == LOWER
        np.copyto(u[first:], _fold((x - np.float32(0.5)) * nearness + TILE / 2), where=lower)
        np.copyto(v[first:], _fold(nearness * np.float32(1 - layout.horizon) + TILE / 4), where=lower)
    u += at(left)
    v += at(top)
    grain = cv2.remap(atlas(), u, v, cv2.INTER_LINEAR).astype(np.float32)
    grain -= 128
    grain *= 1 / 45
    return grain
