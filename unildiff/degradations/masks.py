"""Rain streaks and snow flakes, generated: seeded masks of any size.

Axis letters: H/W pixels. Masks are float32 (H, W) in [0, 1].
CDD-11 takes streaks from a generator and flakes from Snow100K's masks, which cannot be shipped; ours have the same
kinds of variety (density, angle, length, size, blur). Ranges are our choice; lengths and sizes scale with the picture's
long side over 1000 px, as in CDD-11's 1080x720 pictures, but stay visible in small crops.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]


def _scale(height: int, width: int) -> float:
    """How large a streak or flake of a 1000-px picture is in this one."""
    return max(height, width, 250) / 1000


def rain_streaks(height: int, width: int, rng: np.random.Generator) -> Map:
    """Return streaks (H, W): one to three layers of drops, each drawn out along nearly the same angle."""
    scale = _scale(height, width)
    angle = rng.uniform(-35, 35)
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        length = max(5, round(float(rng.uniform(20, 70)) * scale))
        thickness = max(1.0, float(rng.uniform(1.0, 3.0)) * scale)
        density = float(rng.uniform(0.002, 0.012)) / thickness
        drops = (rng.random((height, width), dtype=np.float32) < density).astype(np.float32)
        drops *= rng.random((height, width), dtype=np.float32)
        kernel = _line(length, angle + float(rng.normal(0, 3)), thickness)
        layer = cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_REFLECT)
        mask += layer * np.float32(rng.uniform(0.35, 0.9))
    return np.minimum(mask, np.float32(0.85))


def _line(length: int, angle: float, thickness: float) -> Map:
    """Return a line kernel whose brightest value is 1, fading to both ends."""
    side = length | 1
    centre = side // 2
    rows, columns = np.mgrid[-centre : centre + 1, -centre : centre + 1].astype(np.float32)
    turn = math.radians(angle)
    along = rows * math.cos(turn) + columns * math.sin(turn)
    across = -rows * math.sin(turn) + columns * math.cos(turn)
    fade = np.clip(1.2 - np.abs(along) / (length / 2), 0, 1)
    kernel = fade * np.exp(-0.5 * (across / (0.5 * thickness)) ** 2)
    return np.asarray(kernel / kernel.max(), np.float32)


def snow_flakes(height: int, width: int, rng: np.random.Generator) -> Map:
    """Return flakes (H, W): many small, some middle, few large and blurred ones, with a little wind."""
    scale = _scale(height, width)
    mask = np.zeros((height, width), np.float32)
    amount = float(rng.uniform(0.4, 1.6))
    wind = float(rng.uniform(0, 180))
    per_pixel = amount * height * width / (1000 * 700 * scale * scale)
    for count, low, high, blur in ((900, 1.0, 2.5, 0.5), (260, 2.5, 6.0, 1.0), (45, 6.0, 14.0, 3.0)):
        layer = np.zeros((height, width), np.uint8)
        number = int(rng.poisson(count * per_pixel))
        centres = rng.uniform((0, 0), (width, height), (number, 2)) * 16
        radii = np.maximum(rng.uniform(low, high, number) * scale, 0.6) * 16
        values = rng.uniform(110, 255, number)
        for (x, y), radius, value in zip(centres, radii, values, strict=True):
            cv2.circle(layer, (int(x), int(y)), int(radius), float(value), -1, cv2.LINE_AA, 4)
        sigma = max(0.4, blur * scale * float(rng.uniform(0.6, 1.4)))
        soft = cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), sigma)
        streak = round(float(rng.uniform(0, 10)) * scale * (high / 6))
        if streak >= 3:
            kernel = _line(streak, wind, 1.0)
            soft = cv2.filter2D(soft, -1, kernel / kernel.sum())
        mask = np.maximum(mask, soft)
    return np.clip(mask, 0, 1)
