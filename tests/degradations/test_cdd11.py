"""Eleven degradations: order, ranges, streams, records and refusals."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from unildiff.data.shipped_photographs import load, photographs
from unildiff.degradations import maps, operators
from unildiff.degradations.cdd11 import CleanImage, degrade
from unildiff.degradations.masks import rain_streaks
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.keys import generator


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    rng = np.random.default_rng(2)
    coarse = rng.uniform(0, 255, (5, 6, 3))
    return np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)  # 80 x 96


def test_the_names_are_those_of_the_table() -> None:
    assert len(DEGRADATIONS) == 11
    assert [name.count("_") for name in DEGRADATIONS] == [0] * 4 + [1] * 5 + [2] * 2
    assert not any("rain" in name and "snow" in name for name in DEGRADATIONS)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_pure_function_of_the_key(scene: np.ndarray, name: str) -> None:
    before = scene.copy()
    first, second, other = degrade(scene, name, 11), degrade(scene, name, 11), degrade(scene, name, 12)
    assert first.image.dtype == np.uint8
    assert first.image.shape == scene.shape
    np.testing.assert_array_equal(first.image, second.image)
    assert first.parameters == second.parameters
    assert not np.array_equal(first.image, other.image)
    np.testing.assert_array_equal(scene, before)


@pytest.mark.parametrize("given", [False, True])
def test_an_image_prepared_for_all_eleven_gives_the_same(scene: np.ndarray, given: bool, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    depth, light = (rng.random(scene.shape[:2], dtype=np.float32) if given else None for _ in range(2))
    expected = [degrade(scene, name, 4, depth=depth, illumination=light) for name in DEGRADATIONS]
    calls = []
    real = operators.refine_illumination
    monkeypatch.setattr(operators, "refine_illumination", lambda *maps: calls.append(1) or real(*maps))
    clear = CleanImage(scene, depth, light)
    for name, alone in zip(DEGRADATIONS, expected, strict=True):
        made = degrade(clear, name, 4)
        np.testing.assert_array_equal(made.image, alone.image)
        assert made.parameters == alone.parameters
    assert calls == [1]


def test_every_operator_has_its_own_stream(scene: np.ndarray) -> None:
    low, haze, both = (degrade(scene, name, 5).parameters for name in ("low", "haze", "low_haze_rain"))
    assert {**low, **haze, "rain": "generated"} == both
    mask = rain_streaks(80, 96, generator(5, "rain"))
    given = degrade(scene, "low_haze_rain", 5, rain_mask=mask)
    np.testing.assert_array_equal(given.image, degrade(scene, "low_haze_rain", 5).image)
    assert given.parameters == {**both, "rain": "file"}


def test_values_lie_in_the_ranges_of_the_synthesis(scene: np.ndarray) -> None:
    drawn = [degrade(scene[:16, :16], "low_haze", key).parameters for key in range(200)]
    for name, low, high in (("noise_std", 0.03, 0.08), ("gamma", 2, 3), ("beta", 1, 2), ("airlight", 0.6, 0.9)):
        values = np.array([float(parameters[name]) for parameters in drawn])
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.08 * (high - low)  # 200 uniform draws: 4 deviations


def test_chain_is_low_then_rain_then_haze_then_eight_bits(scene: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    depth, mask = rng.random((2, 80, 96), dtype=np.float32)
    result = degrade(scene, "low_haze_rain", 21, depth=depth, rain_mask=mask)
    drawn = {name: float(result.parameters[name]) for name in ("noise_std", "gamma", "beta", "airlight")}
    clear = scene.astype(np.float64) / 255
    light = operators.refine_illumination(
        maps.estimate_illumination(clear.astype(np.float32)), clear.astype(np.float32)
    )
    stream = generator(21, "low")
    stream.uniform(size=2)  # noise_std and gamma come first
    noise = operators.gaussian_noise(scene.shape, drawn["noise_std"], stream)  # 80 x 96 pixels fit into one band
    level = (np.maximum(light, 0) + 1e-7)[..., None]
    dark = np.clip(clear / level * level ** drawn["gamma"] + noise, 0, 1)
    passing = operators.transmission(depth, drawn["beta"])[..., None]
    hazy = (dark + mask[..., None]) * passing + drawn["airlight"] * (1 - passing)
    expected = np.rint(np.clip(hazy, 0, 1) * 255)
    difference = np.abs(result.image - expected)
    assert difference.max() <= 1  # float32 against float64 at the point of rounding
    assert (difference > 0).mean() < 1e-3


def test_rain_without_haze_saturates_at_white() -> None:
    white = np.full((20, 20, 3), 250, np.uint8)
    result = degrade(white, "rain", 1, rain_mask=np.full((20, 20), 0.5, np.float32))
    assert (result.image == 255).all()  # 250 + 127.5, saturated, not wrapped


def test_bands_do_not_show(scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = degrade(scene, "haze_snow", 4).image
    monkeypatch.setattr("unildiff.degradations.cdd11._BAND", 7 * 96)
    np.testing.assert_array_equal(degrade(scene, "haze_snow", 4).image, whole)


def test_the_record_names_the_source_of_the_maps(scene: np.ndarray) -> None:
    flat = np.full((80, 96), 0.5, np.float32)
    estimated = degrade(scene, "low_haze_snow", 1).parameters
    given = degrade(scene, "low_haze_snow", 1, depth=flat, illumination=flat, snow_mask=flat).parameters
    assert [estimated[name] for name in ("depth", "illumination", "snow")] == ["estimated", "estimated", "generated"]
    assert [given[name] for name in ("depth", "illumination", "snow")] == ["file"] * 3
    assert "depth" not in degrade(scene, "snow", 1).parameters


def test_far_is_hazier_than_near(scene: np.ndarray) -> None:
    depth = np.linspace(0, 1, 96, dtype=np.float32)[None].repeat(80, axis=0)
    grey = np.full((80, 96, 3), 20, np.uint8)
    hazy = degrade(grey, "haze", 3, depth=depth).image.astype(float).mean(axis=(0, 2))
    assert (np.diff(hazy[40:-12]) < 0).all()  # depth increases to the right of the distance limit, away from the border
    assert hazy[0] > hazy[-1] + 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degradation": "low_rian"}, "did you mean 'low_rain'"),
        ({"degradation": "rain_haze"}, "not one of low, haze"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "uint8"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"\(4, 4\)"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "with pixels"),
        ({"depth": np.zeros((4, 5), np.float32)}, "depth must be float32"),
        ({"illumination": np.zeros((4, 4))}, "illumination must be float32"),
        ({"luma": "rgb"}, "luma must be onerestore or true, got 'rgb'"),
        ({"rain_mask": np.full((4, 4), 3, np.float32)}, r"rain_mask must lie in \[0, 1\], got 3 to 3"),
        ({"snow_mask": np.full((4, 4), np.nan, np.float32)}, "snow_mask must lie in"),
    ],
)
def test_bad_input_is_refused_by_name(arguments: dict, message: str) -> None:
    sound = {"image": np.zeros((4, 4, 3), np.uint8), "degradation": "low_haze_rain", "key": 0}
    with pytest.raises(ValueError, match=message):
        degrade(**{**sound, **arguments})


@pytest.mark.parametrize(
    ("name", "low", "high"), [("low", 8, 16), ("haze", 10, 17), ("rain", 18, 27), ("snow", 17, 26)]
)
def test_photographs_score_as_the_inputs_of_cdd11(name: str, low: float, high: float) -> None:
    scores = []
    for photo in photographs("val"):
        clear, _ = load(photo, 256)
        scores += [peak_signal_noise_ratio(clear, degrade(clear, name, key).image) for key in range(8)]
    assert low < np.mean(scores) < high
