"""Colours of dead-leaves scenes: palettes of what photographs are made of, and the names captions give them.

Axis letters: N shapes, K colours of a palette. Colours are sRGB in [0, 1].
The anchors are our choice; they make the channels correlate, and warm, green and blue occur, as in photographs.
"""

import math

import numpy as np

COLOUR_NAMES = ("red", "orange", "brown", "yellow", "green", "blue", "purple", "pink", "black", "grey", "white")


def _rgb(percent: str) -> np.ndarray:
    """Return colours (N, 3), written as red, green and blue in per cent."""
    return np.array([colour.split() for colour in percent.split(",")], dtype=int) / 100


SKIES = _rgb("45 64 88, 66 78 92, 80 85 90, 28 45 75, 93 74 55, 58 62 68")
GROUNDS = _rgb("44 37 29, 54 51 47, 36 43 20, 26 34 14, 74 66 52, 27 27 28, 22 36 44")
WALLS = _rgb("82 77 68, 63 60 55, 52 28 20, 90 89 87, 33 31 29, 46 55 60, 14 14 15, 20 27 13, 12 30 33, 62 50 36")
_OBJECTS = _rgb(
    "30 42 15, 46 55 22, 15 25 10, 40 27 17, 58 42 28, 25 17 12, 85 65 52, 62 43 33, 65 13 11, 82 30 18, "
    "90 52 16, 90 76 28, 14 26 54, 27 46 70, 10 36 38, 38 24 42, 85 52 56, 7 7 8, 22 21 21, 45 44 43, "
    "68 67 65, 94 93 91"
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

    ``spread`` is the deviation of the factor's logarithm, one for all or (N,).
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
