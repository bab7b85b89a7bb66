"""The four CDD-11 operators, as pure functions of maps, masks and random numbers.

Axis letters: H/W pixels, C channels. Pictures are float32 (H, W, C) in [0, 1], maps float32 (H, W) in [0, 1].
Formulas and constants: peers.md section 4 (OneRestore's synthesis, restated). The channel order does not matter to any
of them but the grey conversion of ``refine_illumination``, which takes RGB.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Map = NDArray[np.float32]

GUIDED_WINDOW = 3
GUIDED_EPSILON = 0.01
DEPTH_BLUR = 22
DISTANCE_LIMIT = 0.7


def refine_illumination(illumination: Map, image: Picture) -> Map:
    """Return the guided filter of an illumination map: guide = the map, target = the picture in grey, window 3, eps 0.01.

    Args:
        illumination: (H, W) in [0, 1].
        image: clear picture (H, W, 3), RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    def mean(x: Map) -> Map:
        return cv2.blur(x, (GUIDED_WINDOW, GUIDED_WINDOW), borderType=cv2.BORDER_REFLECT_101)

    mean_guide, mean_target = mean(illumination), mean(grey)
    variance = mean(illumination * illumination) - mean_guide * mean_guide
    slope = (mean(illumination * grey) - mean_guide * mean_target) / (variance + GUIDED_EPSILON)
    offset = mean_target - slope * mean_guide
    return mean(slope) * illumination + mean(offset)


def low_light(image: Picture, illumination: Map, gamma: float, noise: Picture) -> Picture:
    """Return clip(J / (L + 1e-7) * (L + 1e-7)^gamma + noise, 0, 1).

    Args:
        image: J, (H, W, C).
        illumination: L, the refined map (H, W).
        gamma: CDD-11 draws it from U(2, 3).
        noise: N(0, n) per pixel and channel (H, W, C); CDD-11 draws n from U(0.03, 0.08).
    """
    # J / L * L^gamma = J * L^(gamma - 1); a guided filter can fall below zero, where a power is not defined.
    darker = np.power(np.maximum(illumination, 0) + np.float32(1e-7), np.float32(gamma - 1))
    dark = image * darker[..., None] + noise
    return np.clip(dark, 0, 1, out=dark)


def rain(image: Picture, mask: Map) -> Picture:
    """Return I + M: streaks (H, W) are added; nothing is clipped here."""
    return image + mask[..., None]


def snow(image: Picture, mask: Map) -> Picture:
    """Return I (1 - M) + M: white flakes (H, W) cover the picture."""
    opacity = mask[..., None]
    return image * (1 - opacity) + opacity


def haze(image: Picture, depth: Map, beta: float, airlight: float) -> Picture:
    """Return clip(I t + A (1 - t), 0, 1) with t = exp(-beta d), d = min(1 - blur22(depth), 0.7).

    Args:
        image: I, (H, W, C).
        depth: near = bright, (H, W) in [0, 1].
        beta: CDD-11 draws it from U(1, 2).
        airlight: A; CDD-11 draws it from U(0.6, 0.9).
    """
    distance = np.minimum(1 - cv2.blur(depth, (DEPTH_BLUR, DEPTH_BLUR)), np.float32(DISTANCE_LIMIT))
    transmission = np.exp(distance * np.float32(-beta))[..., None]
    hazy = image * transmission + np.float32(airlight) * (1 - transmission)
    return np.clip(hazy, 0, 1, out=hazy)
