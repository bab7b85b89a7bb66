"""Estimates of the maps that CDD-11's operators need, for images without map files.

Axis letters: H/W pixels. Images are float32 (H, W, 3) in [0, 1], RGB; maps float32 (H, W) in [0, 1].
CDD-11's own maps come from LIME and MegaDepth, with settings that were never published.
"""

import cv2
import numpy as np

ILLUMINATION_FLOOR = 0.05
_EDGE = 0.02  # variance of brightness above which smoothing stops


def estimate_illumination(image: np.ndarray) -> np.ndarray:
    """Return the illumination as in LIME: the largest channel, smoothed within edges.

    LIME minimises a weighted total variation; an edge-preserving box filter replaces it (our choice, a hundred times
    faster; the operator's own guided filter removes most of the difference). The minimum is 0.05, so that detail on
    black objects survives.

    Args:
        image: the clear image.
    """
    brightest = _over_channels(image, np.maximum)
    window = _window(image, 64)
    mean = cv2.blur(brightest, window)
    variance = cv2.blur(cv2.multiply(brightest, brightest), window) - cv2.multiply(mean, mean)
    slope = variance / (variance + np.float32(_EDGE))
    smooth = cv2.multiply(cv2.blur(slope, window), brightest) + cv2.blur(mean - cv2.multiply(slope, mean), window)
    return np.clip(smooth, ILLUMINATION_FLOOR, 1, out=smooth)


def estimate_depth(image: np.ndarray) -> np.ndarray:
    """Return a depth map, near = bright: lower, darker and more textured regions are nearer.

    This is a prior, not a measurement: skies are far, ground and foreground are near. The
    dark-channel part follows "Single Image Haze Removal Using Dark Channel Prior" (He et al., 2009); weights are our
    choice.

    Args:
        image: the clear image.
    """
    height = image.shape[0]
    window = _window(image, 32)
    dark = 1 - cv2.blur(_over_channels(image, np.minimum), window)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = cv2.blur(grey, window)
    spread = cv2.sqrt(np.maximum(cv2.blur(cv2.multiply(grey, grey), window) - cv2.multiply(mean, mean), 0))
    near = np.float32(0.25) * dark + np.float32(0.8) * np.minimum(spread, np.float32(0.25))
    near += np.linspace(0, 0.55, height, dtype=np.float32)[:, None]
    return np.asarray(np.clip(near, 0, 1, out=near))


def _window(image: np.ndarray, share: int) -> tuple[int, int]:
    """Return an odd window of about two ``share``-ths of the long side."""
    side = 2 * max(2, round(max(image.shape[:2]) / share)) + 1
    return side, side


def _over_channels(image: np.ndarray, choose: np.ufunc) -> np.ndarray:
    red, green, blue = cv2.split(image)
    return np.asarray(choose(choose(red, green), blue))
