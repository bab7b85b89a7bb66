"""Degradations that the shipped model is not trained to remove: for its judgement which images are clean, and for `studies.unseen`.

Source: our choice. Strengths are drawn from a number. Images are uint8 (H, W, 3).

Axis letters: H/W pixels.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

Draw = np.random.Generator
Degrade = Callable[[np.ndarray, Draw], np.ndarray]


def dark(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * draw.uniform(0.12, 0.75)


def gamma(image: np.ndarray, draw: Draw) -> np.ndarray:
    return 255 * (image / 255) ** draw.uniform(1.4, 3.5)


def bright(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * draw.uniform(1.2, 2.0)


def veil(image: np.ndarray, draw: Draw) -> np.ndarray:
    share, light = draw.uniform(0.3, 0.85), 255 * draw.uniform(0.6, 1.0) * (1 + draw.normal(0, 0.04, 3))
    return image * share + light * (1 - share)


def contrast(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image.mean() + (image - image.mean()) * draw.uniform(0.35, 0.8)


def cast_colour(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * np.exp(draw.normal(0, 0.2, 3))


def noise(image: np.ndarray, draw: Draw, low: float = 3, high: float = 60) -> np.ndarray:
    return image + draw.normal(0, np.exp(draw.uniform(np.log(low), np.log(high))), image.shape)


def shot_noise(image: np.ndarray, draw: Draw) -> np.ndarray:
    gain = np.exp(draw.uniform(np.log(0.2), np.log(6)))
    return draw.poisson(image / gain) * gain


def salt_and_pepper(image: np.ndarray, draw: Draw) -> np.ndarray:
    share, place = draw.uniform(0.005, 0.1), draw.random((*image.shape[:2], 1))
    return np.where(place < share / 2, 0, np.where(place > 1 - share / 2, 255, image))


def jpeg(image: np.ndarray, draw: Draw) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(5, 60))])[1], 1)


def low_resolution(image: np.ndarray, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    scale = draw.uniform(1.5, 4)
    small = cv2.resize(image, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def streaks(image: np.ndarray, draw: Draw) -> np.ndarray:
    """Drops that an exposure draws out, as light over the image."""
    drops = np.where(draw.random(image.shape[:2]) < draw.uniform(0.002, 0.02), draw.uniform(0.5, 1), 0)
    length = 3 + int(draw.uniform(0.04, 0.2) * max(image.shape))
    kernel = np.zeros((length, length), np.float32)
    reach = length // 2 * np.array([np.sin(angle := draw.uniform(-0.6, 0.6)), np.cos(angle)])
    first, last = (tuple(int(each) for each in np.rint(length // 2 + sign * reach)) for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0, 1 if draw.random() < 0.6 else 2)
    light = cv2.filter2D(drops.astype(np.float32), -1, kernel / kernel.sum() * length * draw.uniform(0.25, 0.8))
    light = cv2.GaussianBlur(light, (0, 0), draw.uniform(0.4, 0.9)).clip(0, 1)[..., None]
    return image * (1 - light) + light * draw.uniform(170, 255)


def flakes(image: np.ndarray, draw: Draw) -> np.ndarray:
    """Bright discs of many sizes."""
    light = np.zeros(image.shape[:2], np.float32)
    for _ in range(int(light.size * draw.uniform(0.0005, 0.004))):
        place = int(draw.integers(light.shape[1])), int(draw.integers(light.shape[0]))
        cv2.circle(light, place, int(max(1, draw.exponential(max(light.shape) / 150))), draw.uniform(0.5, 1), -1)
    light = cv2.GaussianBlur(light, (0, 0), draw.uniform(0.5, 1.5))[..., None]
    return image * (1 - light) + light * 245


SINGLE: tuple[Degrade, ...] = (
    dark, gamma, bright, veil, contrast, cast_colour, noise, shot_noise, salt_and_pepper, jpeg, low_resolution, streaks, flakes,
)  # fmt: skip
slight_noise: Degrade = partial(noise, low=1.5, high=12)
DEGRADATIONS: dict[str, tuple[Degrade, ...]] = {each.__name__: (each,) for each in SINGLE} | {  # type: ignore[attr-defined]
    "dark with noise": (dark, slight_noise),
    "dark jpeg": (dark, jpeg),
    "gamma with noise": (gamma, slight_noise),
    "streaks in a veil": (streaks, veil),
    "dark streaks": (streaks, dark),
}


WEATHER = ("dark with noise", "gamma with noise", "veil", "streaks", "flakes", "streaks in a veil", "dark streaks")
"""Never to be returned as they are, even if restoring lowers the PSNR."""


def degrade(image: np.ndarray, name: str, number: int) -> np.ndarray:
    """Return an image (H, W, 3) under a degradation whose strength is a function of a number."""
    draw = np.random.default_rng((number, list(DEGRADATIONS).index(name)))
    for step in DEGRADATIONS[name]:
        image = np.rint(step(image, draw)).clip(0, 255).astype(np.uint8)
    return image
