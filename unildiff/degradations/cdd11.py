"""CDD-11's eleven degradations: which operators, in which order, with which ranges.

Axis letters: H/W pixels.
Order low -> rain -> snow -> haze and ranges: peers.md section 4. Every operator draws from a stream of its own, so that
``low_rain`` has the rain of ``rain`` for the same key.
"""

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from unildiff.data.keys import generator
from unildiff.degradations import maps, masks, operators

DEGRADATIONS: tuple[str, ...] = (
    "low",
    "haze",
    "rain",
    "snow",
    "low_haze",
    "low_rain",
    "low_snow",
    "haze_rain",
    "haze_snow",
    "low_haze_rain",
    "low_haze_snow",
)


@dataclass
class Degraded:
    """A degraded picture, uint8 (H, W, 3), and what was drawn for it: numbers, and where its maps came from."""

    image: NDArray[np.uint8]
    parameters: dict[str, float | str]


def degrade(
    image: NDArray[np.uint8],
    degradation: str,
    key: int,
    depth: NDArray[np.float32] | None = None,
    illumination: NDArray[np.float32] | None = None,
    rain_mask: NDArray[np.float32] | None = None,
    snow_mask: NDArray[np.float32] | None = None,
) -> Degraded:
    """Return a clear picture under one of the eleven degradations, a pure function of the arguments.

    Args:
        image: uint8 (H, W, 3), RGB.
        degradation: a name of ``DEGRADATIONS``.
        key: decides every random draw.
        depth: float32 (H, W) in [0, 1], near = bright; estimated where None.
        illumination: float32 (H, W) in [0, 1]; estimated where None.
        rain_mask: float32 (H, W) in [0, 1]; generated where None.
        snow_mask: float32 (H, W) in [0, 1]; generated where None.

    Raises:
        ValueError: for an unknown name (with the nearest one), a picture that is not uint8 (H, W, 3), or a map of
            another size or type.
    """
    if degradation not in DEGRADATIONS:
        near = get_close_matches(degradation, DEGRADATIONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"degradation {degradation!r} is not one of {', '.join(DEGRADATIONS)}{hint}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    given = {"depth": depth, "illumination": illumination, "rain_mask": rain_mask, "snow_mask": snow_mask}
    for name, values in given.items():
        if values is not None and (values.shape != image.shape[:2] or values.dtype != np.float32):
            raise ValueError(f"{name} must be float32 {image.shape[:2]}, got {values.dtype} {values.shape}")
    parts = degradation.split("_")
    clear = image.astype(np.float32) / np.float32(255)
    picture, height, width = clear, image.shape[0], image.shape[1]
    parameters: dict[str, float | str] = {}
    if "low" in parts:
        rng = generator(key, "low")
        std, gamma = float(rng.uniform(0.03, 0.08)), float(rng.uniform(2, 3))
        parameters |= {"noise": std, "gamma": gamma, "illumination": "estimated" if illumination is None else "file"}
        light = maps.estimate_illumination(clear) if illumination is None else illumination
        noise = rng.standard_normal(clear.shape, dtype=np.float32) * np.float32(std)
        picture = operators.low_light(clear, operators.refine_illumination(light, clear), gamma, noise)
    if "rain" in parts:
        mask = masks.rain_streaks(height, width, generator(key, "rain")) if rain_mask is None else rain_mask
        parameters["rain"] = "generated" if rain_mask is None else "file"
        picture = operators.rain(picture, mask)
    if "snow" in parts:
        mask = masks.snow_flakes(height, width, generator(key, "snow")) if snow_mask is None else snow_mask
        parameters["snow"] = "generated" if snow_mask is None else "file"
        picture = operators.snow(picture, mask)
    if "haze" in parts:
        rng = generator(key, "haze")
        beta, airlight = float(rng.uniform(1, 2)), float(rng.uniform(0.6, 0.9))
        parameters |= {"beta": beta, "airlight": airlight, "depth": "estimated" if depth is None else "file"}
        picture = operators.haze(picture, maps.estimate_depth(clear) if depth is None else depth, beta, airlight)
    # Saturation to 8 bits, rounded, as OpenCV writes a float picture.
    return Degraded(np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8), parameters)
