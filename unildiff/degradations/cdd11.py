"""CDD-11's eleven degradations: which operators, in which order, with which ranges.

Axis letters: H/W pixels.
Order (low, rain, snow, haze) and ranges: OneRestore's synthesis script, see :mod:`unildiff.degradations.operators`. Every
operator draws from its own random stream, so that ``low_rain`` has the rain of ``rain`` for the same key.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import get_args

import cv2
import numpy as np

from unildiff.degradations import maps, masks, operators
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.keys import generator

VERSION = 2
"""Raised when an image of some key changes. 2: low light weights grey as OneRestore's script does."""

NOISE_RANGE = (0.03, 0.08)
GAMMA_RANGE = (2.0, 3.0)
BETA_RANGE = (1.0, 2.0)
AIRLIGHT_RANGE = (0.6, 0.9)
_BAND = 65536  # pixels that pass all operators at once, few enough for the processor's cache


@dataclass(frozen=True)
class Degraded:
    """A degraded image, uint8 (H, W, 3), and the parameters drawn for it.

    ``parameters`` holds those of the operators used: ``noise_std``, ``gamma``, ``beta``, ``airlight`` (numbers);
    ``illumination`` and ``depth`` ("file" or "estimated"); ``rain`` and ``snow`` ("file" or "generated").
    """

    image: np.ndarray
    parameters: dict[str, float | str]


class CleanImage:
    """A clean image and the maps that its degradations share, each computed once on first use.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        depth: float32 (H, W) in [0, 1], near = bright; estimated where None.
        illumination: float32 (H, W) in [0, 1]; estimated where None.
        luma: weights of grey in low light, see :data:`unildiff.degradations.operators.Luma`.
    """

    def __init__(
        self,
        image: np.ndarray,
        depth: np.ndarray | None = None,
        illumination: np.ndarray | None = None,
        luma: operators.Luma = "onerestore",
    ) -> None:
        """Check the image and its maps; the arguments are the attributes.

        Raises:
            ValueError: the image is not uint8 (H, W, 3), or a map has another size, type or range.
        """
        if luma not in get_args(operators.Luma):
            raise ValueError(f"luma must be onerestore or true, got {luma!r}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be uint8 (H, W, 3) with pixels, got {image.dtype} {image.shape}")
        for name, values in (("depth", depth), ("illumination", illumination)):
            if values is not None:
                _check_map(name, values, image.shape[:2])
        self.image = image
        self.depth = depth
        self.illumination = illumination
        self.luma = luma

    @cached_property
    def values(self) -> np.ndarray:
        """The image as float32 (H, W, 3) in [0, 1]."""
        return np.asarray(np.multiply(self.image, np.float32(1 / 255), dtype=np.float32))

    @cached_property
    def light(self) -> np.ndarray:
        """The refined illumination map (H, W)."""
        light = maps.estimate_illumination(self.values) if self.illumination is None else self.illumination
        return operators.refine_illumination(light, self.values, self.luma)

    @cached_property
    def distance(self) -> np.ndarray:
        """The distance of each pixel, (H, W), see :func:`unildiff.degradations.operators.distance`."""
        return operators.distance(maps.estimate_depth(self.values) if self.depth is None else self.depth)


def degrade(
    image: np.ndarray | CleanImage,
    degradation: str,
    key: int,
    depth: np.ndarray | None = None,
    illumination: np.ndarray | None = None,
    rain_mask: np.ndarray | None = None,
    snow_mask: np.ndarray | None = None,
    luma: operators.Luma = "onerestore",
) -> Degraded:
    """Return a clean image under one of the eleven degradations, a pure function of the arguments.

    Args:
        image: uint8 (H, W, 3), RGB; or a :class:`CleanImage`, whose maps and luma replace those given here.
        degradation: a name of ``DEGRADATIONS``.
        key: determines every random draw.
        depth: float32 (H, W) in [0, 1], near = bright; estimated where None.
        illumination: float32 (H, W) in [0, 1]; estimated where None.
        rain_mask: float32 (H, W) in [0, 1]; generated where None.
        snow_mask: float32 (H, W) in [0, 1]; generated where None.
        luma: weights of grey in low light, see :data:`unildiff.degradations.operators.Luma`.

    Raises:
        ValueError: the name is unknown (the message gives the nearest one), the image is not uint8 (H, W, 3), or a map has
            another size, type or range.
    """
    if degradation not in DEGRADATIONS:
        near = get_close_matches(degradation, DEGRADATIONS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"degradation {degradation!r} is not one of {', '.join(DEGRADATIONS)}{hint}")
    clear = image if isinstance(image, CleanImage) else CleanImage(image, depth, illumination, luma)
    height, width = clear.image.shape[:2]
    for name, values in (("rain_mask", rain_mask), ("snow_mask", snow_mask)):
        if values is not None:
            _check_map(name, values, (height, width))

    parts = degradation.split("_")
    parameters: dict[str, float | str] = {}
    if "low" in parts:
        rng_low = generator(key, "low")
        noise_std, gamma = float(rng_low.uniform(*NOISE_RANGE)), float(rng_low.uniform(*GAMMA_RANGE))
        source = _source(clear.illumination, "estimated")
        parameters |= {"noise_std": noise_std, "gamma": gamma, "illumination": source}
    if "rain" in parts:
        streaks = masks.rain_streaks(height, width, generator(key, "rain")) if rain_mask is None else rain_mask
        parameters["rain"] = _source(rain_mask, "generated")
    if "snow" in parts:
        flakes = masks.snow_flakes(height, width, generator(key, "snow")) if snow_mask is None else snow_mask
        parameters["snow"] = _source(snow_mask, "generated")
    if "haze" in parts:
        rng_haze = generator(key, "haze")
        beta, airlight = float(rng_haze.uniform(*BETA_RANGE)), float(rng_haze.uniform(*AIRLIGHT_RANGE))
        passing = operators.passing(clear.distance, beta)
        parameters |= {"beta": beta, "airlight": airlight, "depth": _source(clear.depth, "estimated")}

    degraded = np.empty_like(clear.image)
    step = max(1, _BAND // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        band = clear.values[rows]
        if "low" in parts:
            noise = operators.gaussian_noise(band.shape, noise_std, rng_low)
            band = operators.low_light(band, clear.light[rows], gamma, noise)
        if "rain" in parts:
            band = operators.rain(band, streaks[rows])
        if "snow" in parts:
            band = operators.snow(band, flakes[rows])
        if "haze" in parts:
            band = operators.haze(band, passing[rows], airlight)
        # Rounded and saturated at 255, as OpenCV writes a float image: rain alone may exceed 1, nothing is below 0.
        degraded[rows] = cv2.convertScaleAbs(band, alpha=255)
    return Degraded(degraded, parameters)


def _source(given: np.ndarray | None, otherwise: str) -> str:
    return otherwise if given is None else "file"


def _check_map(name: str, values: np.ndarray, size: tuple[int, ...]) -> None:
    """Refuse a map that is not float32 (H, W) in [0, 1]."""
    if values.dtype != np.float32 or values.shape != size:
        raise ValueError(f"{name} must be float32 {size} like the image, got {values.dtype} {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for nan
        raise ValueError(f"{name} must lie in [0, 1], got {low:.4g} to {high:.4g}")
