"""Gaussian and motion blur.

Axis letters: H/W pixels. Images are uint8 (H, W, 3), RGB. Ranges and the form of the path are our choice.
"""

import cv2
import numpy as np

DISPLAY_GAMMA = 2.2  # between stored values and light, near enough
_STEPS = 24


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the image blurred by a Gaussian of ``sigma`` pixels, mirrored at the border."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def motion_blur(
    image: np.ndarray, length: float, rng: np.random.Generator, bend: float = 0.12, gamma: float = DISPLAY_GAMMA
) -> np.ndarray:
    """Return the image averaged over a smooth, random path of the camera, as GoPro's frames are averaged.

    Args:
        image: the sharp image.
        length: length of the path in pixels.
        rng: determines direction and bends.
        bend: standard deviation of the change of direction per step, in radians; 0 is a straight line.
        gamma: exponent from stored values to the quantity that is averaged: 2.2 averages light, 1 stored values.
    """
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, _STEPS))
    path = np.cumsum(np.stack([np.cos(angles), np.sin(angles)]) * length / _STEPS, axis=1)
    path -= path.mean(axis=1, keepdims=True)
    light = to_light(image, gamma)
    total = np.zeros_like(light)
    for right, down in path.T:
        shift = np.array([[1, 0, right], [0, 1, down]], dtype=np.float32)
        total += cv2.warpAffine(light, shift, light.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    return to_stored(total / _STEPS, gamma)


def to_light(image: np.ndarray, gamma: float = DISPLAY_GAMMA) -> np.ndarray:
    """Return stored values, uint8, as light, float32 in [0, 1]."""
    return np.asarray((image.astype(np.float32) / 255) ** gamma)


def to_stored(light: np.ndarray, gamma: float = DISPLAY_GAMMA) -> np.ndarray:
    """Return light in [0, 1] as stored values, uint8."""
    return np.asarray(np.rint(light ** (1 / gamma) * 255).clip(0, 255), dtype=np.uint8)
