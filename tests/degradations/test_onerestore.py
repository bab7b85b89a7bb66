"""All eleven degradations against OneRestore's synthesis written out by hand: BGR, float64, one operator after another.

No function of the package is used to compute the expected images. Random draws are pinned on both sides.
"""

import numpy as np
import pytest

from unildiff.degradations import operators
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS

HEIGHT, WIDTH = 33, 41
NOISE = np.random.default_rng(5).normal(0, 0.05, (HEIGHT, WIDTH, 3)).astype(np.float32)  # in RGB
MAPS = np.random.default_rng(6).random((4, HEIGHT, WIDTH))


def mean_filter(values: np.ndarray, side: int) -> np.ndarray:
    """Box mean with OpenCV's border (mirrored without repeating the edge) and anchor (side // 2)."""
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(values, ((before, after), (before, after)), mode="reflect")
    result = np.zeros_like(values)
    for row in range(side):
        for column in range(side):
            result += padded[row : row + values.shape[0], column : column + values.shape[1]]
    return result / side**2


def by_hand(image: np.ndarray, name: str, drawn: dict[str, float], maps: dict[str, np.ndarray]) -> np.ndarray:
    current = image[..., ::-1] / 255.0  # the script works in BGR
    grey = 0.299 * current[..., 0] + 0.587 * current[..., 1] + 0.114 * current[..., 2]  # and converts it as if RGB
    if "low" in name:
        light = maps["illumination"]
        mean_light, mean_grey = mean_filter(light, 3), mean_filter(grey, 3)
        slope = (mean_filter(light * grey, 3) - mean_light * mean_grey) / (
            mean_filter(light * light, 3) - mean_light**2 + 0.01
        )
        refined = mean_filter(slope, 3) * light + mean_filter(mean_grey - slope * mean_light, 3)
        level = (np.maximum(refined, 0) + 1e-7)[..., None]
        current = np.clip(current / level * level ** drawn["gamma"] + NOISE[..., ::-1], 0, 1)
    if "rain" in name:
        current = current + maps["rain_mask"][..., None]
    if "snow" in name:
        cover = maps["snow_mask"][..., None]
        current = current * (1 - cover) + cover
    if "haze" in name:
        distance = np.minimum(1 - mean_filter(maps["depth"], 22), 0.7)
        passing = np.exp(-drawn["beta"] * distance)[..., None]
        current = np.clip(current * passing + drawn["airlight"] * (1 - passing), 0, 1)
    return np.rint(np.clip(current, 0, 1) * 255)[..., ::-1]


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_follows_the_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "gaussian_noise", lambda *_: NOISE)
    image = np.kron(np.random.default_rng(4).integers(0, 256, (11, 14, 3)), np.ones((3, 3, 1), int))[:HEIGHT, :WIDTH]
    depth, illumination, rain, snow = MAPS
    maps = {"depth": depth, "illumination": 0.2 + 0.8 * illumination, "rain_mask": rain**6, "snow_mask": snow**6}
    given = {kind: values.astype(np.float32) for kind, values in maps.items()}
    made = degrade(image.astype(np.uint8), name, 9, **given)
    difference = np.abs(made.image - by_hand(image, name, made.parameters, maps))
    assert difference.max() <= 1  # float32 against float64 at the point of rounding
    assert (difference > 0).mean() < 2e-3
    if "low" in name:
        true = degrade(image.astype(np.uint8), name, 9, **given, luma="true").image
        assert np.abs(true - made.image.astype(float)).max() > 5  # the comparison distinguishes the two weightings


@pytest.mark.parametrize(("luma", "expected"), [("onerestore", (76, 41)), ("true", (29, 70))])
def test_low_light_of_pure_blue_and_orange(luma: operators.Luma, expected: tuple[int, int], monkeypatch) -> None:
    """Hand calculation: where map and image are flat, the refined light is the grey g, and J g^(gamma - 1) is left.

    Pure blue has g = 0.299 (script) or 0.114; (200, 50, 0) has (0.114 * 200 + 0.587 * 50) / 255 = 0.2045 or
    (0.299 * 200 + 0.587 * 50) / 255 = 0.3496. With gamma = 2: 255 g and 200 g, rounded, plus 5 / 255 of noise.
    """
    monkeypatch.setattr(operators, "gaussian_noise", lambda shape, *_: np.full(shape, 5 / 255, np.float32))
    monkeypatch.setattr("unildiff.degradations.cdd11.GAMMA_RANGE", (2.0, 2.0))
    flat = np.full((8, 8), 0.5, np.float32)
    blue, orange = (np.full((8, 8, 3), colour, np.uint8) for colour in ((0, 0, 255), (200, 50, 0)))
    dark_blue, dark_orange = (degrade(i, "low", 1, illumination=flat, luma=luma).image[4, 4] for i in (blue, orange))
    assert (dark_blue[2], dark_orange[0]) == (expected[0] + 5, expected[1] + 5)
