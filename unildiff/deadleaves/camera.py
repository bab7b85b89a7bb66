"""From a drawing to a photograph: uneven light, cast shadows, defocus, exposure, colour cast, sharpening and noise.

Axis letters: H/W pixels (squares: H = W). Images are float32 (H, W, 3), depths float32 (H, W) in [0, 1], near = bright.
All ranges are our choice, set so that the statistics of tests/deadleaves/test_renderer.py hold.
"""

import math

import cv2
import numpy as np

from unildiff.degradations.operators import gaussian_noise

_DEFOCUS = (0, 0, 0, 0, 0, 0, 1.0, 1.0, 2.5, 6.0)  # how much an image blurs away from its focal plane


def light_up(rng: np.random.Generator, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the image under uneven light, with soft shadows cast by nearer shapes."""
    size = len(image)
    field = rng.normal(0, rng.uniform(0.05, 0.35), (3, 3)).astype(np.float32)
    light = cv2.exp(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC))
    strength = float(rng.uniform(0, 0.7))
    shift = rng.uniform(-0.04, 0.04, 2) * size
    move = np.array([[1, 0, shift[0]], [0, 1, abs(shift[1])]], np.float32)
    cast = cv2.warpAffine(depth, move, (size, size), borderMode=cv2.BORDER_REPLICATE)
    shadow = np.clip((cast - depth) * np.float32(8), 0, 1)
    blur = 2 * int(rng.integers(1, max(2, size // 32))) + 1
    light *= 1 - np.float32(strength) * cv2.blur(shadow, (blur, blur))
    return np.asarray(cv2.multiply(image, cv2.merge((light, light, light))))


def focus(rng: np.random.Generator, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the image blurred where it lies out of the focal plane; most images are sharp all over."""
    strength = _DEFOCUS[rng.integers(0, len(_DEFOCUS))]
    if strength == 0:
        return image
    size = len(image)
    plane = np.float32(rng.uniform(0.2, 1.0))
    circle = np.minimum(np.abs(depth - plane) * np.float32(strength), 2)
    first = np.minimum(circle, 1)
    circle -= first
    soft = cv2.GaussianBlur(image, (0, 0), 1.1 * size / 128)
    softer = cv2.GaussianBlur(soft, (0, 0), 2.6 * size / 128)
    for blurred, share in ((soft, first), (softer, circle)):
        blurred -= image
        image = image + cv2.multiply(blurred, cv2.merge((share, share, share)))
    return image


def develop(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return 8 bits, uint8 (H, W, 3): blacks and whites set as a camera does, a tone curve, a cast, sharpening, noise."""
    tint = 1 + rng.normal(0.01, 0.05) * np.array((1, 0, -1)) + rng.normal(0, 0.015) * np.array((-0.5, 1, -0.5))
    green = np.sort(image[::4, ::4, 1], axis=None)  # a sixteenth of the pixels is enough to place black and white
    dark, middle, bright = (float(green[int(share * (len(green) - 1))]) for share in (0.015, 0.5, 0.96))
    black, white = rng.uniform(0.0, 0.05), rng.uniform(0.7, 1.0)
    gain = min((white - black) / max(bright - dark, 0.15), 3.5)
    vivid = rng.uniform(0.8, 1.7)  # saturation: away from grey, then each channel by its gain
    affine = np.empty((3, 4))
    affine[:, :3] = (gain * tint)[:, None] * (vivid * np.eye(3) + (1 - vivid) / 3)
    affine[:, 3] = black - dark * gain * tint
    image = np.clip(cv2.transform(image, affine), 0, 1.1)
    wanted = float(np.clip(rng.normal(0.43, 0.18), 0.1, 0.85))
    middle = min(max((middle - dark) * gain + black, 0.05), 0.9)
    cv2.pow(image, float(np.clip(math.log(wanted) / math.log(middle), 0.4, 1.8)), dst=image)
    sharpen = (0.0, 0.4, 0.9)[rng.integers(0, 3)]
    if sharpen:
        image = cv2.addWeighted(image, 1 + sharpen, cv2.GaussianBlur(image, (0, 0), 0.8), -sharpen, 0)
    noise = (0.0, 0.0, 0.005, 0.012)[rng.integers(0, 4)]
    if noise:
        image += gaussian_noise(image.shape, noise, rng)
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0, out=image), alpha=255))
