"""Simple substitutes for degradations that CDD-11's operators lack: blur, raindrops and two displays; low light is CDD-11's.

They show that every step works; a score on them is not a score on the real sets. All of it is our choice.
Axis letters: H W pixels. Images are (H, W, 3) uint8 RGB; each generator is a pure function of (image, key).
"""

from collections.abc import Callable, Mapping

import numpy as np

from unildiff.degradations import blur
from unildiff.degradations.cdd11 import degrade
from unildiff.utils.keys import generator

Generator = Callable[[np.ndarray, int], np.ndarray]


def _motion_blur(image: np.ndarray, key: int) -> np.ndarray:
    draw = generator(key, "blur")
    return blur.motion_blur(image, float(draw.uniform(9, 15)), draw)


def raindrops(image: np.ndarray, key: int) -> np.ndarray:
    """Lay 12 to 20 drops over the image; through each one sees the scene small, upside down and out of focus."""
    import cv2

    draw = generator(key, "drops")
    height, width = image.shape[:2]
    base = image.astype(np.float32)
    seen = cv2.GaussianBlur(base, (0, 0), 3)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(draw.integers(12, 21))):
        x, y = draw.uniform(0, width), draw.uniform(0, height)
        radius = draw.uniform(0.025, 0.07) * min(height, width)
        stretch = draw.uniform(1.0, 1.5)
        inside = 1 - ((columns - x) / radius) ** 2 - ((rows - y) / (radius * stretch)) ** 2
        cover = np.clip(inside * 3, 0, 1)[..., None]  # soft edges
        # a drop is a strong lens: offsets are turned round and magnified
        map_x = np.clip(x - (columns - x) * 3, 0, width - 1)
        map_y = np.clip(y - (rows - y) * 3, 0, height - 1)
        through = cv2.remap(seen, map_x, map_y, cv2.INTER_LINEAR)
        base = base * (1 - cover) + (0.85 * through + 25) * cover
    return np.asarray(np.rint(base).clip(0, 255), dtype=np.uint8)


def toled(image: np.ndarray, key: int) -> np.ndarray:
    """See the image through vertical slits: light spreads sideways into the orders of a grating, with a little noise."""
    orders = np.arange(-4, 5)
    weights = np.sinc(orders * 0.21) ** 2  # a grating that is open over 0.21 of its period, as reported for T-OLED
    light = sum(
        w * np.roll(blur.to_light(image), 3 * int(o), axis=1)
        for o, w in zip(orders, weights / weights.sum(), strict=True)
    )
    noise = generator(key, "toled").normal(0, 0.01, image.shape)
    return blur.to_stored(np.clip(np.asarray(light) + noise, 0, 1))


def poled(image: np.ndarray, key: int) -> np.ndarray:
    """See the image through a yellowish plastic display that lets little through: dim, veiled and noisy."""
    import cv2

    light = blur.to_light(image)
    veiled = 0.6 * cv2.GaussianBlur(light, (0, 0), 2.5) + 0.4 * cv2.GaussianBlur(light, (0, 0), 12)
    dim = veiled * np.array([0.12, 0.11, 0.05], dtype=np.float32)
    noise = generator(key, "poled").normal(0, 0.004, image.shape)
    return blur.to_stored(np.clip(dim + noise, 0, 1))


def _low_light(image: np.ndarray, key: int) -> np.ndarray:
    return degrade(image, "low", key).image


GENERATORS: Mapping[str, Generator] = {
    "lowlight": _low_light,
    "blur": _motion_blur,
    "raindrop": raindrops,
    "toled": toled,
    "poled": poled,
}
