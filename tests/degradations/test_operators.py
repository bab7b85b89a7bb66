"""The operators against the formulas of CDD-11's synthesis, written out in numpy, float64."""

import numpy as np
import pytest

from unildiff.degradations import operators


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def clear(rng: np.random.Generator) -> np.ndarray:
    return rng.random((48, 67, 3), dtype=np.float32)


@pytest.fixture
def depth(rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(0, 0.7, 67)[None] + 0.3 * rng.random((48, 67))  # d = 1 - depth reaches the limit 0.7 on the left
    return np.asarray(ramp, np.float32)


def box(values: np.ndarray, side: int) -> np.ndarray:
    """Mean over side x side pixels, mirrored at the border without repeating it; an even window leans up and left."""
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(values.astype(np.float64), ((before, after), (before, after)), mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side)).mean(axis=(2, 3))


def guided(guide: np.ndarray, target: np.ndarray) -> np.ndarray:
    """He's guided filter, window 3, eps 0.01."""
    slope = (box(guide * target, 3) - box(guide, 3) * box(target, 3)) / (box(guide**2, 3) - box(guide, 3) ** 2 + 0.01)
    offset = box(target, 3) - slope * box(guide, 3)
    return box(slope, 3) * guide + box(offset, 3)


def test_low_light_is_the_formula(clear: np.ndarray, rng: np.random.Generator) -> None:
    light = (0.3 + 0.7 * rng.random(clear.shape[:2])).astype(np.float32)
    noise = rng.normal(0, 0.05, clear.shape).astype(np.float32)
    gamma = 2.4
    grey = clear.astype(np.float64) @ np.array([0.114, 0.587, 0.299])  # OneRestore's script swaps red and blue
    refined = guided(light.astype(np.float64), grey)[..., None]
    expected = np.clip(clear / (refined + 1e-7) * (refined + 1e-7) ** gamma + noise, 0, 1)
    result = operators.low_light(clear, operators.refine_illumination(light, clear), gamma, noise)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert result.dtype == np.float32
    assert ((expected > 0) & (expected < 1)).mean() > 0.8  # most of the compared values are not clipped


@pytest.mark.parametrize(("luma", "blue", "red"), [("onerestore", 76, 29), ("true", 29, 76)])
def test_grey_of_pure_colours(luma: operators.Luma, blue: int, red: int) -> None:
    pure = np.array([[[0, 0, 255], [255, 0, 0], [0, 255, 0]]], np.uint8)
    assert operators.to_grey(pure, luma).tolist() == [[blue, red, 150]]  # 255 times 0.299, 0.114, 0.587


def test_rain_is_added_and_not_clipped(clear: np.ndarray, rng: np.random.Generator) -> None:
    mask = rng.random(clear.shape[:2], dtype=np.float32)
    result = operators.rain(clear, mask)
    np.testing.assert_allclose(result, clear.astype(np.float64) + mask[..., None], atol=1e-6)
    assert result.max() > 1.5


def test_snow_covers_with_white(clear: np.ndarray, rng: np.random.Generator) -> None:
    mask = rng.random(clear.shape[:2], dtype=np.float32)
    opacity = mask[..., None].astype(np.float64)
    np.testing.assert_allclose(operators.snow(clear, mask), clear * (1 - opacity) + 1.0 * opacity, atol=1e-6)


def test_haze_is_the_formula(clear: np.ndarray, depth: np.ndarray) -> None:
    beta, airlight = 1.7, 0.83
    distance = np.minimum(1 - box(depth, 22), 0.7)
    passing = np.exp(-beta * distance)[..., None]
    expected = np.clip(clear * passing + airlight * (1 - passing), 0, 1)
    result = operators.haze(clear, operators.transmission(depth, beta), airlight)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    limited = (distance == 0.7).mean()
    assert 0.05 < limited < 0.95  # both sides of the limit are compared


def test_order_low_rain_haze_equals_the_chain(clear: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> None:
    light = (0.2 + 0.8 * rng.random(clear.shape[:2])).astype(np.float32)
    mask = (rng.random(clear.shape[:2]) ** 8).astype(np.float32)
    noise = rng.normal(0, 0.08, clear.shape).astype(np.float32)
    refined = guided(light.astype(np.float64), clear @ np.array([0.114, 0.587, 0.299]))[..., None]
    image = np.clip(clear / (refined + 1e-7) * (refined + 1e-7) ** 3.0 + noise, 0, 1) + mask[..., None]
    passing = np.exp(-1.0 * np.minimum(1 - box(depth, 22), 0.7))[..., None]
    expected = np.clip(image * passing + 0.6 * (1 - passing), 0, 1)
    ours = operators.low_light(clear, operators.refine_illumination(light, clear), 3.0, noise)
    ours = operators.haze(operators.rain(ours, mask), operators.transmission(depth, 1.0), 0.6)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_illumination_below_zero_is_no_light(clear: np.ndarray) -> None:
    light = np.full(clear.shape[:2], -0.01, np.float32)
    result = operators.low_light(clear, light, 2.5, np.zeros_like(clear))
    assert np.isfinite(result).all()
    assert result.max() < 1e-6


def test_noise_has_its_deviation_in_every_channel() -> None:
    noise = operators.gaussian_noise((200, 200, 3), 0.05, np.random.default_rng(1))
    # 40,000 draws: the deviation of the deviation is 0.05 / sqrt(80,000) = 1.8e-4, of the mean 2.5e-4
    np.testing.assert_allclose(noise.reshape(-1, 3).std(axis=0), 0.05, atol=1e-3)
    np.testing.assert_allclose(noise.reshape(-1, 3).mean(axis=0), 0, atol=1.25e-3)
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.03
    again = operators.gaussian_noise((200, 200, 3), 0.05, np.random.default_rng(1))
    np.testing.assert_array_equal(noise, again)
    assert not np.array_equal(noise, operators.gaussian_noise((200, 200, 3), 0.05, np.random.default_rng(2)))


def test_operators_do_not_change_their_arguments(clear: np.ndarray, depth: np.ndarray) -> None:
    image, near = clear.copy(), depth.copy()
    mask = np.full(clear.shape[:2], 0.5, np.float32)
    operators.low_light(clear, mask, 2.0, np.zeros_like(clear))
    operators.snow(clear, mask)
    operators.haze(clear, operators.transmission(depth, 1.5), 0.7)
    np.testing.assert_array_equal(clear, image)
    np.testing.assert_array_equal(depth, near)
