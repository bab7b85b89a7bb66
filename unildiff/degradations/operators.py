"""The four CDD-11 operators, as pure functions of maps, masks and random numbers.

Axis letters: H/W pixels. Images are float32 (H, W, 3) in [0, 1], RGB; maps and masks float32 (H, W) in [0, 1].
Formulas and constants: the synthesis script of OneRestore (Guo et al., ECCV 2024, github.com/gy65896/OneRestore,
``syn_data/syn_data.py``). OpenCV computes in float32, because numpy takes several times as long to broadcast a map over
three channels.
"""

from typing import Literal

import cv2
import numpy as np

Luma = Literal["onerestore", "true"]
"""How grey is weighted: as OneRestore's script does it, or as ITU-R BT.601 luma of RGB.

The script reads images as BGR and converts them with OpenCV's RGB2GRAY, so that blue gets red's weight and the other way
round: grey = 0.299 B + 0.587 G + 0.114 R. CDD-11 was presumably made by it.
"""

GUIDED_WINDOW = 3
GUIDED_EPSILON = 0.01
ILLUMINATION_FLOOR = 1e-7
DEPTH_BLUR = 22
DISTANCE_LIMIT = 0.7


def to_grey(image: np.ndarray, luma: Luma = "onerestore") -> np.ndarray:
    """Return an RGB image (H, W, 3) as grey (H, W), weighted as ``luma`` names it."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if luma == "onerestore" else cv2.COLOR_RGB2GRAY))


def refine_illumination(illumination: np.ndarray, image: np.ndarray, luma: Luma = "onerestore") -> np.ndarray:
    """Return the guided filter of an illumination map: guide = the map, target = the image in grey, window 3, eps 0.01.

    Args:
        illumination: float32 (H, W) in [0, 1].
        image: clean image, float32 (H, W, 3).
        luma: weights of the grey image.
    """
    grey = to_grey(image, luma)
    window = (GUIDED_WINDOW, GUIDED_WINDOW)
    mean_guide, mean_target = cv2.blur(illumination, window), cv2.blur(grey, window)
    variance = cv2.blur(cv2.multiply(illumination, illumination), window) - cv2.multiply(mean_guide, mean_guide)
    covariance = cv2.blur(cv2.multiply(illumination, grey), window) - cv2.multiply(mean_guide, mean_target)
    slope = cv2.divide(covariance, variance + np.float32(GUIDED_EPSILON))
    offset = mean_target - cv2.multiply(slope, mean_guide)
    return np.asarray(cv2.multiply(cv2.blur(slope, window), illumination) + cv2.blur(offset, window))


def gaussian_noise(shape: tuple[int, ...], std: float, rng: np.random.Generator) -> np.ndarray:
    """Return N(0, std), float32, from OpenCV's generator (three times as fast as numpy's), seeded from ``rng``."""
    cv2.setRNGSeed(int(rng.integers(2**31)))
    noise = np.empty(shape, np.float32)
    cv2.randn(noise, np.zeros(1), np.full(1, std))  # a plain number would reach the first channel only
    return noise


def low_light(image: np.ndarray, illumination: np.ndarray, gamma: float, noise: np.ndarray) -> np.ndarray:
    """Return clip(J / (L + 1e-7) * (L + 1e-7)^gamma + noise, 0, 1).

    Args:
        image: J, the clean image.
        illumination: L, the refined map; the guided filter can make it negative, which counts as 0.
        gamma: CDD-11 draws it from U(2, 3).
        noise: N(0, n) per pixel and channel, float32 (H, W, 3); CDD-11 draws n from U(0.03, 0.08).
    """
    light = np.maximum(illumination, 0) + np.float32(ILLUMINATION_FLOOR)
    dark = cv2.multiply(image, _three(cv2.pow(light, gamma - 1)))  # J / L * L^gamma
    cv2.add(dark, noise, dst=dark)
    return np.clip(dark, 0, 1, out=dark)


def rain(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return I + M: streaks are added, and nothing is clipped here."""
    return np.asarray(cv2.add(image, _three(mask)))


def snow(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return I (1 - M) + 1 M: white flakes cover the image."""
    return _toward(image, 1.0, 1 - mask)


def transmission(depth: np.ndarray, beta: float) -> np.ndarray:
    """Return t = exp(-beta d), the share of light that passes the haze; d is the distance of ``depth``.

    Args:
        depth: near = bright.
        beta: density; CDD-11 draws it from U(1, 2).
    """
    return passing(distance(depth), beta)


def distance(depth: np.ndarray) -> np.ndarray:
    """Return d = min(1 - blur22(depth), 0.7)."""
    return np.asarray(np.minimum(1 - cv2.blur(depth, (DEPTH_BLUR, DEPTH_BLUR)), np.float32(DISTANCE_LIMIT)))


def passing(distance: np.ndarray, beta: float) -> np.ndarray:
    """Return exp(-beta d)."""
    return np.asarray(cv2.exp(distance * np.float32(-beta)))


def haze(image: np.ndarray, passing: np.ndarray, airlight: float) -> np.ndarray:
    """Return clip(I t + A (1 - t), 0, 1).

    Args:
        image: I.
        passing: t, see :func:`transmission`.
        airlight: A, one grey; CDD-11 draws it from U(0.6, 0.9).
    """
    hazy = _toward(image, airlight, passing)
    return np.clip(hazy, 0, 1, out=hazy)


def _toward(image: np.ndarray, grey: float, transmission: np.ndarray) -> np.ndarray:
    """Return I t + G (1 - t), as G + (I - G) t."""
    mixed = image - np.float32(grey)
    cv2.multiply(mixed, _three(transmission), dst=mixed)
    mixed += np.float32(grey)
    return np.asarray(mixed)


def _three(values: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.merge((values, values, values)))
