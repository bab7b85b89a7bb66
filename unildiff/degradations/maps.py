"""Maps that CDD-11's operators need, estimated where no file gives them.

Axis letters: H/W pixels. Pictures are float32 (H, W, 3) in [0, 1], maps float32 (H, W) in [0, 1].
CDD-11's own maps come from LIME and MegaDepth with settings that were never published (peers.md 3, point 10).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]


def estimate_illumination(image: NDArray[np.float32]) -> Map:
    """Return an illumination map: the largest channel, smoothed within edges, as LIME's first estimate.

    Values are kept in [0.05, 1], so that black objects do not swallow what lies on them.
    """
    brightest = image.max(axis=2)
    radius = max(2, round(max(image.shape[:2]) / 64))
    size = (2 * radius + 1, 2 * radius + 1)
    mean = cv2.blur(brightest, size)
    variance = cv2.blur(brightest * brightest, size) - mean * mean
    slope = variance / (variance + np.float32(0.02))  # an edge-keeping (self-guided) smoothing
    smooth = cv2.blur(slope, size) * brightest + cv2.blur(mean - slope * mean, size)
    return np.clip(smooth, 0.05, 1)


def estimate_depth(image: NDArray[np.float32]) -> Map:
    """Return a depth map, near = bright: the lower in the picture and the more textured or dark, the nearer.

    A prior for pictures without a depth file (our choice), smooth within edges; not a measurement.
    """
    height, width = image.shape[:2]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    radius = max(2, round(max(height, width) / 32))
    size = (2 * radius + 1, 2 * radius + 1)
    dark = cv2.blur(1 - image.min(axis=2), size)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    spread = np.sqrt(np.maximum(cv2.blur(grey * grey, size) - cv2.blur(grey, size) ** 2, 0))
    near = 0.55 * rows + 0.25 * dark + 0.8 * np.minimum(spread, np.float32(0.25))
    return np.clip(near, 0, 1)
