"""Streaks and flakes: seeded, of any size, varied within the stated bounds."""

import numpy as np
import pytest
from skimage.feature import structure_tensor
from skimage.measure import label

from unildiff.degradations.masks import rain_streaks, snow_flakes

MAKERS = [rain_streaks, snow_flakes]


def make(maker, seed: int, height: int = 128, width: int = 160) -> np.ndarray:
    return maker(height, width, np.random.default_rng(seed))


def near_vertical(mask: np.ndarray) -> float:
    """Return the angle between the mask's streaks and the vertical in degrees, from the structure tensor."""
    rows, mixed, columns = (part.sum() for part in structure_tensor(mask, sigma=1.0, order="rc"))
    across = 0.5 * np.degrees(np.arctan2(2 * mixed, columns - rows))  # direction of most change, from the horizontal
    return float(across)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 64), (720, 1080)])
def test_any_size_and_range(maker, size: tuple[int, int]) -> None:
    mask = make(maker, 3, *size)
    assert mask.shape == size
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1


@pytest.mark.parametrize("maker", MAKERS)
def test_the_seed_decides(maker) -> None:
    np.testing.assert_array_equal(make(maker, 5), make(maker, 5))
    assert not np.array_equal(make(maker, 5), make(maker, 6))


@pytest.mark.parametrize(("maker", "low", "high"), [(rain_streaks, 0.004, 0.13), (snow_flakes, 0.006, 0.12)])
def test_amounts_vary_and_stay_weather(maker, low: float, high: float) -> None:
    means = np.array([make(maker, seed).mean() for seed in range(60)])
    assert low < np.percentile(means, 10) < np.percentile(means, 90) < high
    assert np.percentile(means, 90) > 2.5 * np.percentile(means, 10)


def test_rain_falls_in_lines_of_many_angles() -> None:
    angles = np.array([near_vertical(make(rain_streaks, seed)) for seed in range(40)])
    assert np.abs(angles).max() < 75
    assert 8 < angles.std() < 30  # drawn from N(0, 17 degrees)
    long = [
        np.ptp(np.argwhere(parts == 1 + np.bincount(parts.ravel())[1:].argmax()), axis=0).max()
        for parts in (label(make(rain_streaks, seed) > 0.15) for seed in range(10))
    ]
    assert np.median(long) > 12  # pixels: the largest connected part is elongated


def test_flakes_are_round_small_and_of_several_sizes() -> None:
    areas = np.concatenate([np.bincount(label(make(snow_flakes, seed) > 0.35).ravel())[1:] for seed in range(20)])
    assert len(areas) > 400
    assert np.median(areas) < 16  # most of them are fine
    assert np.percentile(areas, 99.5) > 40  # a few are large
    coherence = []
    for seed in range(20):
        rows, mixed, columns = (part.sum() for part in structure_tensor(make(snow_flakes, seed), sigma=1.0, order="rc"))
        coherence.append(np.hypot(rows - columns, 2 * mixed) / (rows + columns))
    assert np.median(coherence) < 0.3  # no common direction, unlike streaks


def test_flakes_grow_with_the_image() -> None:
    def typical(height: int, width: int) -> float:
        areas = [np.bincount(label(make(snow_flakes, seed, height, width) > 0.3).ravel())[1:] for seed in range(8)]
        return float(np.sqrt(np.concatenate(areas)).mean())

    assert typical(640, 960) > 1.4 * typical(256, 384)
