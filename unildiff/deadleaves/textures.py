"""The texture bank of dead-leaves scenes: one atlas of square tiles, made once per process from a fixed constant.

Axis letters: K textures, T side of a tile in texels.
Sources: power-law noise and dead leaves are the usual models of natural textures; the selection is our choice.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

TILE = 512
_SEED = 20251123
_COLUMNS = 8


def tile_kinds() -> np.ndarray:
    """Return, for each of the K tiles, its index into ``TEXTURE_NAMES``."""
    return _OWNER


@lru_cache(maxsize=1)
def atlas() -> np.ndarray:
    """Return the tiles side by side, uint8; 128 is no change, a tile's standard deviation is about 45."""
    rng = np.random.default_rng(_SEED)
    rows = -(-len(_OWNER) // _COLUMNS)
    sheet = np.full((rows * TILE, _COLUMNS * TILE), 128, np.uint8)
    for number, kind in enumerate(_OWNER):
        tile = _KINDS[kind][2](rng)
        tile = (tile - tile.mean()) / (tile.std() + 1e-6)
        left, top = tile_origin(np.asarray(number))
        texels = np.clip(128 + 45 * tile, 0, 220).astype(np.uint8)
        sheet[int(top) : int(top) + TILE, int(left) : int(left) + TILE] = texels
    sheet.setflags(write=False)
    return sheet


def tile_origin(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left and top of tiles in the atlas, in texels."""
    return number % _COLUMNS * TILE, number // _COLUMNS * TILE


def rough_piece(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return a piece (side, side) of a rough tile, float32, deviation about 1; larger than a tile it is magnified."""
    left, top = tile_origin(_ROUGH[rng.integers(0, len(_ROUGH))])
    cut = min(side, TILE)
    x, y = rng.integers(0, TILE - cut + 1, 2)
    piece = atlas()[top + y : top + y + cut, left + x : left + x + cut].astype(np.float32)
    piece = (piece - 128) * np.float32(1 / 45)
    return piece if side <= TILE else np.asarray(cv2.resize(piece, (side, side), interpolation=cv2.INTER_LINEAR))


def power_noise(rng: np.random.Generator, slope: float, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """Return periodic noise (T, T), deviation 1, whose amplitude falls as frequency to the power of minus ``slope``.

    Slope 0 is white, 1 that of photographs. It is drawn out ``stretch`` times at an angle in radians from the horizontal.
    """
    fx, fy, fall = _frequencies()
    along = (fx * math.cos(angle) + fy * math.sin(angle)) * stretch
    across = fy * math.cos(angle) - fx * math.sin(angle)
    amplitude = (np.hypot(along, across) + np.float32(2 / TILE)) ** np.float32(-slope) * fall
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE), dtype=np.float32)) * amplitude
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (TILE, TILE))
    return np.asarray(noise / noise.std(), np.float32)


@lru_cache(maxsize=1)
def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frequencies along x and y in cycles a texel, and how a lens lets the highest ones fade."""
    fx, fy = np.fft.rfftfreq(TILE)[None].astype(np.float32), np.fft.fftfreq(TILE)[:, None].astype(np.float32)
    return fx, fy, np.exp(-((np.hypot(fx, fy) / np.float32(0.42)) ** 4))


def _warp(tile: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    rows, columns = np.mgrid[:TILE, :TILE].astype(np.float32)
    columns += strength * power_noise(rng, 2.2)
    rows += strength * power_noise(rng, 2.2)
    return np.asarray(cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _worn(pattern: np.ndarray, rng: np.random.Generator, amount: float, slope: float = 1.2) -> np.ndarray:
    """Return a pattern scaled to deviation 1, with noise: nothing in a photograph is quite regular."""
    pattern = pattern.astype(np.float32)
    return np.asarray(pattern / (pattern.std() + 1e-6) + np.float32(amount) * power_noise(rng, slope))


def _smooth(rng: np.random.Generator) -> np.ndarray:
    return power_noise(rng, 2.4)


def _cloudy(rng: np.random.Generator) -> np.ndarray:
    noise = power_noise(rng, rng.uniform(1.5, 1.9), rng.uniform(1, 2.5), rng.uniform(-0.3, 0.3))
    return _warp(noise, rng, rng.uniform(3, 9))


def _rough(rng: np.random.Generator) -> np.ndarray:
    noise = power_noise(rng, rng.uniform(0.8, 1.3), rng.uniform(1, 2), rng.uniform(0, math.pi))
    return np.asarray(np.sign(noise) * np.abs(noise) ** np.float32(1.3))


def _grainy(rng: np.random.Generator) -> np.ndarray:
    return power_noise(rng, rng.uniform(0.2, 0.6))


def _furry(rng: np.random.Generator) -> np.ndarray:
    fine = power_noise(rng, rng.uniform(0.7, 1.1), rng.uniform(5, 14), rng.uniform(-0.2, 0.2))
    return _warp(_worn(fine, rng, 0.6, 1.6), rng, rng.uniform(3, 16))


def _wooden(rng: np.random.Generator) -> np.ndarray:
    rows = np.mgrid[:TILE, :TILE][0] / TILE
    field = rows * rng.uniform(5, 16) + rng.uniform(0.3, 0.9) * power_noise(rng, 2.4, 5.0)
    rings = np.abs(field % 1 * 2 - 1) ** rng.uniform(0.7, 2)
    return np.asarray(_worn(rings, rng, 0.5, 1.5) + 0.5 * power_noise(rng, 0.8, 12.0))


def _leafy(rng: np.random.Generator) -> np.ndarray:
    """Small dead leaves, sizes by a power law: foliage, gravel, crowds, shelves seen from afar."""
    canvas = np.zeros((TILE, TILE), np.uint8)
    count = 7000
    radii = 3.0 * (1 - rng.random(count) * (1 - (3.0 / 40) ** 2)) ** -0.5
    values = np.clip(128 + 48 * rng.standard_normal(count), 5, 250).tolist()
    centres = (rng.uniform(-10, TILE + 10, (count, 2)) * 8).astype(int).tolist()
    axes = (radii[:, None] * (1, rng.uniform(0.35, 1)) * 8).astype(int).tolist()
    angles = (rng.uniform(0, 180) + rng.choice((20, 180)) * rng.uniform(-1, 1, count)).tolist()
    for (x, y), (a, b), angle, value in zip(centres, axes, angles, values, strict=True):
        cv2.ellipse(canvas, (x, y), (a, b), angle, 0, 360, value, -1, cv2.LINE_AA, 3)
    for shard in range(count // 4):
        corners = np.array(centres[shard]) + rng.normal(0, 8 * radii[shard], (3, 2))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], values[-shard], cv2.LINE_AA, 3)
    return _worn(canvas, rng, 0.3, 1.0)


def _spotted(rng: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((TILE, TILE), np.uint8)
    for _ in range(int(rng.integers(60, 160))):
        x, y = rng.uniform(0, TILE, 2)
        axes = (int(rng.uniform(8, 26) * 8), int(rng.uniform(8, 26) * 8))
        cv2.ellipse(canvas, (int(x * 8), int(y * 8)), axes, rng.uniform(0, 180), 0, 360, 200, -1, cv2.LINE_AA, 3)
    return _worn(255 - canvas, rng, 0.3, 1.4)  # dark spots on a bright ground


def _striped(rng: np.random.Generator) -> np.ndarray:
    columns = np.mgrid[:TILE, :TILE][1]
    wave = np.sin(columns * (2 * math.pi / rng.choice((8, 14, 24, 40))))
    return _worn(np.tanh(wave * rng.choice((1, 4))), rng, 0.25)


def _chequered(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:TILE, :TILE]
    period = float(rng.choice((16, 28, 44)))
    line = rng.uniform(0.12, 0.5) * period
    cells = (rows % period < line) | (columns % period < line)
    return _worn(cv2.GaussianBlur(cells.astype(np.float32), (0, 0), 0.7), rng, 0.3)


def _brick(rng: np.random.Generator) -> np.ndarray:
    high = int(rng.choice((12, 20, 32)))
    wide = int(high * rng.uniform(1.5, 3))
    rows, columns = np.mgrid[:TILE, :TILE]
    course = rows // high
    shifted = columns + course % 2 * (wide // 2)
    tone = rng.standard_normal((TILE // high + 2, (TILE + wide) // wide + 2))[course, shifted // wide]
    mortar = (rows % high < max(1, high // 9)) | (shifted % wide < max(1, high // 9))
    wall = np.where(mortar, rng.choice((-2.5, 2.5)), 0.6 * tone).astype(np.float32)
    return _worn(cv2.GaussianBlur(wall, (0, 0), 0.7), rng, 0.4, 1.0)


def _woven(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:TILE, :TILE]
    step = 2 * math.pi / rng.choice((5, 8, 13))
    cloth = np.sin(rows * step) * np.sin(columns * step) + 0.4 * np.sin((rows + columns) * step)
    return _worn(cloth * (1 + 0.3 * power_noise(rng, 1.5)), rng, 1.0, 1.8)


def _written(rng: np.random.Generator) -> np.ndarray:
    """Lines of strokes that look like text from afar, dark upon bright, rarely the reverse."""
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
    return _worn(page if rng.random() < 0.25 else 255 - page, rng, 0.3, 1.4)


# Name in captions, how many tiles of it the atlas holds, how one is made. "smooth" comes first: tile 0 is nearly even.
_KINDS: tuple[tuple[str, int, Callable[[np.random.Generator], np.ndarray]], ...] = (
    ("smooth", 3, _smooth),
    ("cloudy", 5, _cloudy),
    ("rough", 5, _rough),
    ("grainy", 3, _grainy),
    ("furry", 5, _furry),
    ("wooden", 3, _wooden),
    ("leafy", 6, _leafy),
    ("spotted", 2, _spotted),
    ("striped", 4, _striped),
    ("chequered", 3, _chequered),
    ("brick", 3, _brick),
    ("woven", 2, _woven),
    ("written", 4, _written),
)
TEXTURE_NAMES: tuple[str, ...] = tuple(name for name, _, _ in _KINDS)
_OWNER = np.repeat(np.arange(len(_KINDS)), [count for _, count, _ in _KINDS])
_ROUGH = np.flatnonzero(_OWNER == TEXTURE_NAMES.index("rough"))
