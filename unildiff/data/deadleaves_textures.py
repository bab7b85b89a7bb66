"""The texture bank of dead-leaves scenes: one atlas of square tiles, made once per process from a fixed constant.

Axis letters: K textures, T side of a tile in texels.
Sources: power-law noise and dead leaves are the usual models of natural textures; the selection is our choice.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Tile = NDArray[np.float32]

TILE = 512
_SEED = 20251123
_COLUMNS = 8

# Name in captions -> how many tiles of it the atlas holds. "smooth" comes first: tile 0 is nearly even.
KINDS: tuple[tuple[str, int], ...] = (
    ("smooth", 3),
    ("cloudy", 5),
    ("rough", 5),
    ("grainy", 3),
    ("furry", 5),
    ("wooden", 3),
    ("leafy", 6),
    ("spotted", 2),
    ("striped", 4),
    ("chequered", 3),
    ("brick", 3),
    ("woven", 2),
    ("written", 4),
)
TEXTURE_NAMES: tuple[str, ...] = tuple(name for name, _ in KINDS)
_OWNER: tuple[int, ...] = tuple(kind for kind, (_, count) in enumerate(KINDS) for _ in range(count))


def tile_kinds() -> NDArray[np.intp]:
    """Return, for each of the K tiles, its index into ``TEXTURE_NAMES``."""
    return np.asarray(_OWNER)


@lru_cache(maxsize=1)
def atlas() -> NDArray[np.uint8]:
    """Return the tiles side by side, uint8; 128 is no change, a tile's standard deviation is about 45."""
    rng = np.random.default_rng(_SEED)
    rows = -(-len(_OWNER) // _COLUMNS)
    sheet = np.full((rows * TILE, _COLUMNS * TILE), 128, np.uint8)
    for number, kind in enumerate(_OWNER):
        tile = _MAKERS[TEXTURE_NAMES[kind]](rng)
        tile = (tile - tile.mean()) / (tile.std() + 1e-6)
        left, top = tile_origin(np.asarray(number))
        sheet[int(top) : int(top) + TILE, int(left) : int(left) + TILE] = np.clip(128 + 45 * tile, 0, 255).astype(
            np.uint8
        )
    sheet.setflags(write=False)
    return sheet


def tile_origin(number: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return left and top of tiles in the atlas, in texels."""
    return number % _COLUMNS * TILE, number // _COLUMNS * TILE


def power_noise(rng: np.random.Generator, slope: float, stretch: float = 1.0, angle: float = 0.0) -> Tile:
    """Return noise (T, T) whose amplitude falls as frequency to the minus ``slope``, drawn out ``stretch`` times along an angle."""
    fy = np.fft.fftfreq(TILE)[:, None]
    fx = np.fft.rfftfreq(TILE)[None]
    along = (fx * math.cos(angle) + fy * math.sin(angle)) * stretch
    across = -fx * math.sin(angle) + fy * math.cos(angle)
    radius = np.hypot(along, across)
    amplitude = (radius + 2.0 / TILE) ** -slope * np.exp(-((np.hypot(fx, fy) / 0.42) ** 4))
    amplitude[0, 0] = 0
    phase = rng.uniform(0, 2 * math.pi, amplitude.shape)
    noise = np.fft.irfft2(amplitude * np.exp(1j * phase), (TILE, TILE))
    return np.asarray(noise / noise.std(), np.float32)


def _warp(tile: Tile, rng: np.random.Generator, strength: float) -> Tile:
    rows, columns = np.mgrid[:TILE, :TILE].astype(np.float32)
    return cv2.remap(
        tile,
        columns + strength * power_noise(rng, 2.2),
        rows + strength * power_noise(rng, 2.2),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def _smooth(rng: np.random.Generator) -> Tile:
    return power_noise(rng, 2.4)


def _cloudy(rng: np.random.Generator) -> Tile:
    noise = power_noise(rng, rng.uniform(1.5, 1.9), rng.uniform(1, 2.5), rng.uniform(-0.3, 0.3))
    return _warp(np.tanh(noise), rng, 10)


def _rough(rng: np.random.Generator) -> Tile:
    noise = power_noise(rng, rng.uniform(0.8, 1.3), rng.uniform(1, 2), rng.uniform(0, math.pi))
    return np.sign(noise) * np.abs(noise) ** 1.4


def _grainy(rng: np.random.Generator) -> Tile:
    return power_noise(rng, rng.uniform(0.2, 0.6))


def _furry(rng: np.random.Generator) -> Tile:
    fine = power_noise(rng, rng.uniform(0.7, 1.1), rng.uniform(6, 14), rng.uniform(-0.2, 0.2))
    return _warp(fine + 0.6 * power_noise(rng, 1.6), rng, rng.uniform(8, 25))


def _wooden(rng: np.random.Generator) -> Tile:
    rows = np.mgrid[:TILE, :TILE][0].astype(np.float32)
    field = rows / TILE * rng.uniform(6, 20) + rng.uniform(1, 2.5) * power_noise(rng, 2.2, 5.0)
    rings = np.abs((field % 1) * 2 - 1)
    return np.asarray(rings + 0.2 * power_noise(rng, 0.8, 12.0), np.float32)


def _leafy(rng: np.random.Generator) -> Tile:
    """Small dead leaves, sizes by a power law: foliage, gravel, crowds, shelves seen from afar."""
    canvas = np.zeros((TILE, TILE), np.uint8)
    turn = rng.uniform(0, 180)
    squash, spread = rng.uniform(0.35, 1), rng.choice((20, 180))
    for _ in range(7000):
        radius = 3.0 * (1 - rng.random() * (1 - (3.0 / 40) ** 2)) ** -0.5
        x, y = rng.uniform(-10, TILE + 10, 2)
        value = float(np.clip(128 + 48 * rng.standard_normal(), 5, 250))
        axes = (int(radius * 8), int(radius * squash * 8))
        if rng.random() < 0.7:
            angle = turn + rng.uniform(-spread, spread)
            cv2.ellipse(canvas, (int(x * 8), int(y * 8)), axes, angle, 0, 360, value, -1, cv2.LINE_AA, 3)
        else:
            corners = np.array([[x, y]]) + rng.normal(0, radius, (3, 2))
            cv2.fillPoly(canvas, [(corners * 8).astype(np.int32)], value, cv2.LINE_AA, 3)
    return canvas.astype(np.float32) + 14 * power_noise(rng, 1.0)


def _spotted(rng: np.random.Generator) -> Tile:
    canvas = np.zeros((TILE, TILE), np.uint8)
    for _ in range(int(rng.integers(60, 160))):
        x, y = rng.uniform(0, TILE, 2)
        axes = (int(rng.uniform(8, 26) * 8), int(rng.uniform(8, 26) * 8))
        cv2.ellipse(canvas, (int(x * 8), int(y * 8)), axes, rng.uniform(0, 180), 0, 360, 200, -1, cv2.LINE_AA, 3)
    return -canvas.astype(np.float32) + 20 * power_noise(rng, 1.4)


def _striped(rng: np.random.Generator) -> Tile:
    columns = np.mgrid[:TILE, :TILE][1].astype(np.float32)
    wave = np.sin(columns * (2 * math.pi / rng.choice((8, 14, 24, 40))))
    return np.asarray(np.tanh(wave * rng.choice((1, 4))) + 0.2 * power_noise(rng, 1.2), np.float32)


def _chequered(rng: np.random.Generator) -> Tile:
    rows, columns = np.mgrid[:TILE, :TILE].astype(np.float32)
    period = float(rng.choice((16, 28, 44)))
    line = rng.uniform(0.12, 0.5)
    cells = ((rows % period) < line * period) | ((columns % period) < line * period)
    return cv2.GaussianBlur(cells.astype(np.float32), (0, 0), 0.7) + 0.15 * power_noise(rng, 1.2)


def _brick(rng: np.random.Generator) -> Tile:
    high = int(rng.choice((12, 20, 32)))
    wide = int(high * rng.uniform(1.5, 3))
    rows, columns = np.mgrid[:TILE, :TILE]
    course = rows // high
    shifted = columns + course % 2 * (wide // 2)
    tone = rng.standard_normal((TILE // high + 2, (TILE + wide) // wide + 2))[course, shifted // wide]
    mortar = (rows % high < max(1, high // 9)) | (shifted % wide < max(1, high // 9))
    wall = np.where(mortar, rng.choice((-2.5, 2.5)), 0.6 * tone).astype(np.float32)
    return cv2.GaussianBlur(wall, (0, 0), 0.7) + 0.35 * power_noise(rng, 1.0)


def _woven(rng: np.random.Generator) -> Tile:
    rows, columns = np.mgrid[:TILE, :TILE].astype(np.float32)
    step = 2 * math.pi / rng.choice((5, 8, 13))
    cloth = np.sin(rows * step) * np.sin(columns * step) + 0.4 * np.sin((rows + columns) * step)
    return np.asarray(cloth * (1 + 0.3 * power_noise(rng, 1.5)) + 0.8 * power_noise(rng, 1.8), np.float32)


def _written(rng: np.random.Generator) -> Tile:
    """Lines of strokes that look like text from afar."""
    page = np.zeros((TILE, TILE), np.uint8)
    high = int(rng.choice((9, 14, 22, 34)))
    for top in range(4, TILE - high, int(high * rng.uniform(1.5, 2.2))):
        x = int(rng.integers(0, 20))
        while x < TILE - 4:
            for _ in range(int(rng.integers(2, 9))):
                ends = rng.integers((x, top), (x + max(3, high // 2), top + high), (3, 2))
                cv2.polylines(page, [ends.astype(np.int32)], False, 255, max(1, high // 8), cv2.LINE_AA)
                x += int(high * 0.6)
            x += int(high * 0.7)
    return page.astype(np.float32) * float(rng.choice((-1, 1))) + 10 * power_noise(rng, 1.4)


_MAKERS = {
    "smooth": _smooth,
    "cloudy": _cloudy,
    "rough": _rough,
    "grainy": _grainy,
    "furry": _furry,
    "wooden": _wooden,
    "leafy": _leafy,
    "spotted": _spotted,
    "striped": _striped,
    "chequered": _chequered,
    "brick": _brick,
    "woven": _woven,
    "written": _written,
}
