"""Rain streaks and snow flakes, generated: seeded masks of any size.

Axis letters: H/W pixels. Masks are float32 (H, W) in [0, 1].
CDD-11 takes its streaks from a generator and its flakes from Snow100K's masks, neither of which can be shipped; ours
vary in the same properties (density, angle, length, size, opacity, blur). All ranges are our choice, such that
degraded photographs score like CDD-11's inputs, about 16 to 29 dB. Sizes are those of a 1000-px image and scale with
the long side, as when CDD-11's masks are resized; they vary by a third, because crops have any scale.
"""

import math

import cv2
import numpy as np

_SHIFT = 4  # sub-pixel bits of drawn coordinates
_SMALLEST = 384  # crops with a shorter long side are treated as parts of an image of this size


def _scale(height: int, width: int, rng: np.random.Generator) -> float:
    """Return the scale of a streak or flake relative to a 1000-px image."""
    return max(height, width, _SMALLEST) / 1000 * math.exp(rng.normal(0, 0.3))


def rain_streaks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return streaks: one to three layers of thin lines at nearly one angle, each with its own length and blur.

    A layer is either drawn streak by streak, with sharp ends, or spread from points, with fading ends.
    """
    scale = _scale(height, width, rng)
    tilt = math.radians(rng.normal(0, 17))
    mask = np.zeros((height, width), np.float32)
    layers = int(rng.integers(1, 4))
    cover = math.exp(rng.uniform(math.log(0.035), math.log(0.22))) / layers  # proportion of the image under streaks
    brightness = rng.uniform(0.35, 0.95)
    for _ in range(layers):
        length = max(4.0, float(rng.uniform(18, 80)) * scale)
        thickness = float(rng.uniform(0.6, 3.6)) * scale
        density = cover / (length * max(1.0, thickness + 0.4))  # streaks per pixel
        gain = np.float32(brightness * rng.uniform(0.7, 1.15))
        layer = (_drawn if rng.random() < 0.6 else _spread)(height, width, rng, density, length, thickness, tilt)
        mask += gain * cv2.GaussianBlur(layer, (0, 0), max(0.3, float(rng.uniform(0, 1.6)) * scale))
    return np.minimum(mask, 1, out=mask)


def _drawn(
    height: int, width: int, rng: np.random.Generator, density: float, length: float, thickness: float, tilt: float
) -> np.ndarray:
    """Return a layer (H, W) in [0, 1] of straight lines; lines may start above or beside the image."""
    number = int(rng.poisson(density * (height + length) * (width + 2 * length)))
    angles = tilt + rng.normal(0, 0.04, number)
    ends = np.empty((number, 2, 2))
    ends[:, 0] = rng.uniform((-length, -length), (width + length, height), (number, 2))
    reach = length * rng.uniform(0.5, 1.3, number)
    ends[:, 1] = ends[:, 0] + reach[:, None] * np.stack((np.sin(angles), np.cos(angles)), axis=-1)
    values = np.sort(rng.uniform(70, 255, number))  # the brightest are drawn last
    layer = np.zeros((height, width), np.uint8)
    wide = max(1, round(thickness))
    for ((x, y), (u, v)), value in zip((ends * 2**_SHIFT).astype(int).tolist(), values.tolist(), strict=True):
        cv2.line(layer, (x, y), (u, v), value, wide, cv2.LINE_AA, _SHIFT)
    return layer * np.float32(1 / 255)


def _spread(
    height: int, width: int, rng: np.random.Generator, density: float, length: float, thickness: float, tilt: float
) -> np.ndarray:
    """Return a layer (H, W) in [0, 1] of points that a line kernel spreads out, brightest in the middle."""
    number = int(rng.poisson(density * height * width))
    layer = np.zeros((height, width), np.float32)
    layer[rng.integers(0, height, number), rng.integers(0, width, number)] = rng.uniform(0.3, 1, number)
    kernel = _trail(length, math.pi / 2 - tilt)
    kernel = cv2.GaussianBlur(kernel, (0, 0), max(0.4, 0.3 * thickness))
    streaks = cv2.filter2D(layer, -1, kernel / kernel.max(), borderType=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(streaks, 0, 1, out=streaks))  # OpenCV uses a Fourier transform for large kernels


# Radii from and to, blur (pixels of a 1000-px image), and opacity of the fine, the middle and the large flakes.
_FLAKES = ((0.9, 2.4, 0.6, 1.0), (2.4, 6.0, 1.2, 0.95), (6.0, 14.0, 3.5, 0.75))


def snow_flakes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return flakes: many fine, some medium and few large, blurred, translucent ones, stretched by wind."""
    scale = _scale(height, width, rng)
    mask = np.zeros((height, width), np.float32)
    cover = math.exp(rng.uniform(math.log(0.012), math.log(0.11)))  # proportion of the image under flakes
    shares = rng.dirichlet((2.0, 2.0, 1.0))
    wind, drift = rng.uniform(0, math.pi), float(rng.exponential(0.5))
    for (low, high, soft, clear), share in zip(_FLAKES, shares, strict=True):
        typical = 0.5 * (low + high) * scale
        border = high * scale
        density = min(cover * share / (math.pi * max(typical, 0.8) ** 2), 0.05)  # flakes per pixel
        number = int(rng.poisson(density * (height + 2 * border) * (width + 2 * border)))
        layer = np.zeros((height, width), np.uint8)
        radii = np.maximum(rng.uniform(low, high, number) * scale, 0.7)
        values = rng.uniform(120, 255, number) * clear
        centres = rng.uniform((-border, -border), (width + border, height + border), (number, 2))
        if typical < 1.2:  # as fine as pixels: points, spread by the blur below
            inside = (centres >= 0).all(axis=1) & (centres < (width, height)).all(axis=1)
            x, y = centres[inside].astype(int).T
            layer[y, x] = values[inside]
            cv2.dilate(layer, np.ones((2, 2), np.uint8), dst=layer)
        else:
            squash = rng.uniform(0.6, 1, number)
            axes = (np.stack((radii, radii * squash), axis=-1) * 2**_SHIFT).astype(int).tolist()
            places = (centres * 2**_SHIFT).astype(int).tolist()
            turns = rng.uniform(0, 180, number).tolist()
            for (x, y), (a, b), turn, value in zip(places, axes, turns, values.tolist(), strict=True):
                cv2.ellipse(layer, (x, y), (a, b), turn, 0, 360, value, -1, cv2.LINE_AA, _SHIFT)
        blurred = cv2.GaussianBlur(layer, (0, 0), max(0.4, soft * scale * float(rng.uniform(0.5, 1.5))))
        trail = min(drift * typical * 2, 15.0)
        if trail >= 1.5:
            blurred = cv2.filter2D(blurred, -1, _trail(trail, wind))
        mask = np.maximum(mask, blurred)
    return mask * np.float32(1 / 255)


def _trail(length: float, angle: float) -> np.ndarray:
    """Return a line kernel whose values sum to 1."""
    reach = math.ceil(length / 2)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)
