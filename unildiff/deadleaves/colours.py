"""Colours of dead-leaves scenes: palettes of what photographs are made of, and the names captions give them.

Axis letters: N shapes, K colours of a palette. Colours are sRGB in [0, 1].
The anchors are our choice; they make the channels correlate, and warm, green and blue occur, as in photographs.
"""

import math

import numpy as np

COLOUR_NAMES = ("red", "orange", "brown", "yellow", "green", "blue", "purple", "pink", "black", "grey", "white")

SKIES = np.array(
    [
        (0.45, 0.64, 0.88),
        (0.66, 0.78, 0.92),
        (0.80, 0.85, 0.90),
        (0.28, 0.45, 0.75),
        (0.93, 0.74, 0.55),
        (0.58, 0.62, 0.68),
    ]
)
GROUNDS = np.array(
    [
        (0.44, 0.37, 0.29),
        (0.54, 0.51, 0.47),
        (0.36, 0.43, 0.20),
        (0.26, 0.34, 0.14),
        (0.74, 0.66, 0.52),
        (0.27, 0.27, 0.28),
        (0.22, 0.36, 0.44),
    ]
)
WALLS = np.array(
    [
        (0.82, 0.77, 0.68),
        (0.63, 0.60, 0.55),
        (0.52, 0.28, 0.20),
        (0.90, 0.89, 0.87),
        (0.33, 0.31, 0.29),
        (0.46, 0.55, 0.60),
        (0.14, 0.14, 0.15),
        (0.20, 0.27, 0.13),
        (0.12, 0.30, 0.33),
        (0.62, 0.50, 0.36),
    ]
)
_OBJECTS = np.array(
    [
        (0.30, 0.42, 0.15),
        (0.46, 0.55, 0.22),
        (0.15, 0.25, 0.10),
        (0.40, 0.27, 0.17),
        (0.58, 0.42, 0.28),
        (0.25, 0.17, 0.12),
        (0.85, 0.65, 0.52),
        (0.62, 0.43, 0.33),
        (0.65, 0.13, 0.11),
        (0.82, 0.30, 0.18),
        (0.90, 0.52, 0.16),
        (0.90, 0.76, 0.28),
        (0.14, 0.26, 0.54),
        (0.27, 0.46, 0.70),
        (0.10, 0.36, 0.38),
        (0.38, 0.24, 0.42),
        (0.85, 0.52, 0.56),
        (0.07, 0.07, 0.08),
        (0.22, 0.21, 0.21),
        (0.45, 0.44, 0.43),
        (0.68, 0.67, 0.65),
        (0.94, 0.93, 0.91),
    ]
)
_NEUTRAL = 5  # the last ones of _OBJECTS
_LIGHT, _WARM, _GREEN = np.ones(3), 0.05 * np.array([1, 0, -1]), 0.025 * np.array([-0.5, 1, -0.5])
_GREY = np.array([0.299, 0.587, 0.114])


def luma(colours: np.ndarray) -> np.ndarray:
    """Return the brightness (N,) of colours (N, 3)."""
    return np.asarray(colours @ _GREY)


def palette(rng: np.random.Generator, size: int = 6) -> np.ndarray:
    """Return the colours (K, 3) that a scene's shapes are variations of; about a third are neutral."""
    vivid = rng.integers(0, len(_OBJECTS) - _NEUTRAL, size)
    neutral = rng.integers(len(_OBJECTS) - _NEUTRAL, len(_OBJECTS), size)
    return _OBJECTS[np.where(rng.random(size) < 0.65, vivid, neutral)]


def vary(rng: np.random.Generator, colours: np.ndarray, spread: float | np.ndarray = 0.4) -> np.ndarray:
    """Return colours (N, 3) lighter or darker by a factor, and a little warmer, cooler or greener.

    Args:
        rng: draws the changes.
        colours: (N, 3).
        spread: deviation of the factor's logarithm, one for all or (N,).
    """
    light, warm, green = rng.standard_normal((3, len(colours)))
    tint = np.exp(np.outer(light * spread, _LIGHT) + np.outer(warm, _WARM) + np.outer(green, _GREEN))
    return np.asarray(np.clip(colours * tint, 0.01, 1.0))


def colour_name(colour: np.ndarray) -> str:
    """Return the one of ``COLOUR_NAMES`` that an RGB colour in [0, 1] is called."""
    red, green, blue = (float(value) for value in colour)
    high, low = max(red, green, blue), min(red, green, blue)
    if high < 0.15:
        return "black"
    if high - low < 0.25 * high or high - low < 0.08:
        return "white" if low > 0.72 else "grey"
    hue = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    if 15 <= hue < 46:
        return "orange" if high > 0.65 and high - low > 0.45 * high else "brown"
    for limit, name in ((15, "red"), (66, "yellow"), (165, "green"), (255, "blue"), (295, "purple"), (345, "pink")):
        if hue < limit:
            return name
    return "red"
