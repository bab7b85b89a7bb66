"""Scenes have the statistics of photographs.

Bounds are set around the three validation photographs (cut to 128 px) and known results: spectra of photographs fall
about as 1/f (Field 1987), their gradients are heavy-tailed (kurtosis far above the Gaussian 3), brightness varies most
among colours, then blue against yellow, then green against red (Ruderman, Cronin and Chiao 1998).
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy import stats

from unildiff.data.shipped_photographs import load, photographs
from unildiff.deadleaves.layout import sample_sizes
from unildiff.deadleaves.renderer import render
from unildiff.deadleaves.textures import TILE, atlas, tile_kinds, tile_origin
from unildiff.degradations.cdd11 import degrade

COUNT = 120


@lru_cache(maxsize=1)
def scenes() -> list:
    return [render(key) for key in range(COUNT)]


@lru_cache(maxsize=1)
def crops() -> list[np.ndarray]:
    """Return crops of the validation photographs at half their sample size and at full size."""
    rng = np.random.default_rng(0)
    pieces = []
    for photo in photographs("val"):
        for longest in (256, 384):
            image, _ = load(photo, longest)
            for _ in range(10):
                top, left = (int(rng.integers(0, side - 127)) for side in image.shape[:2])
                pieces.append(image[top : top + 128, left : left + 128])
    return pieces


def grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]) / 255)


def medians(measure: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Return the median of a measure over scenes and over photographs."""
    return (
        float(np.median([measure(scene.image) for scene in scenes()])),
        float(np.median([measure(piece) for piece in crops()])),
    )


def spectrum_slope(image: np.ndarray) -> float:
    """Return the slope of log amplitude over log frequency, 3 per image to 0.4 per pixel, under a Hann window."""
    light = grey(image)
    side = len(light)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2((light - light.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    edges = np.geomspace(3 / side, 0.4, 10)
    rings = [power[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    return float(np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), 0.5 * np.log(rings), 1)[0])


def differences(image: np.ndarray) -> np.ndarray:
    light = grey(image)
    return np.concatenate([np.diff(light, axis=axis).ravel() for axis in (0, 1)])


def test_sizes_follow_the_power_law() -> None:
    sizes = sample_sizes(np.random.default_rng(0), 200_000, 0.02, 0.5)
    assert sizes.min() >= 0.02
    assert sizes.max() <= 0.5
    edges = np.geomspace(0.02, 0.4, 12)
    density = np.histogram(sizes, edges)[0] / np.diff(edges)
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(density), 1)[0]
    assert slope == pytest.approx(-3, abs=0.1)


def test_spectrum_falls_as_that_of_photographs() -> None:
    ours, theirs = medians(spectrum_slope)
    assert -1.6 < ours < -1.1
    assert abs(ours - theirs) < 0.25


def test_contrast() -> None:
    ours, theirs = medians(lambda image: float(grey(image).std()))
    assert 0.16 < ours < 0.28
    assert abs(ours - theirs) < 0.08
    brightness = [grey(scene.image).mean() for scene in scenes()]
    assert 0.08 < np.std(brightness) < 0.2  # dark and bright images
    assert 0.3 < np.mean(brightness) < 0.55


def test_black_is_reached_and_little_is_burnt_out() -> None:
    darkest = np.median([np.quantile(grey(scene.image), 0.01) for scene in scenes()])
    assert darkest < 0.08
    assert np.mean([(scene.image == 255).all(axis=2).mean() for scene in scenes()]) < 0.05


def test_gradients_are_heavy_tailed() -> None:
    ours, theirs = medians(lambda image: float(stats.kurtosis(differences(image), fisher=False)))
    assert ours > 9  # 3 for a Gaussian
    assert 0.5 < ours / theirs < 2.5
    ours, theirs = medians(lambda image: float(differences(image).std()))
    assert 0.65 < ours / theirs < 1.4
    ours, theirs = medians(lambda image: float((np.abs(differences(image)) < 0.01).mean()))
    assert abs(ours - theirs) < 0.15  # the proportion of smooth regions


def test_colours_correlate_and_vary_as_in_nature() -> None:
    def correlation(image: np.ndarray) -> float:
        return float(np.corrcoef(image.reshape(-1, 3).T.astype(float))[np.triu_indices(3, 1)].mean())

    ours, theirs = medians(correlation)
    assert 0.65 < ours < 0.97
    assert abs(ours - theirs) < 0.2
    pixels = np.concatenate([scene.image[::4, ::4].reshape(-1, 3) for scene in scenes()]).astype(float)
    red, green, blue = pixels.T
    light, yellow, magenta = red + green + blue, (red + green - 2 * blue) / np.sqrt(2), np.sqrt(1.5) * (red - green)
    assert light.var() > 3 * yellow.var()
    assert yellow.var() > 1.3 * magenta.var()  # all three axes are scaled to length sqrt(3)
    ours, theirs = medians(lambda image: float(np.ptp(image.astype(float), axis=2).mean() / 255))
    assert abs(ours - theirs) < 0.12  # saturation


def test_long_straight_lines_are_common_but_not_everywhere() -> None:
    found = []
    for scene in scenes()[:60]:
        edges = cv2.Canny(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), 60, 160)
        found.append(cv2.HoughLinesP(edges, 1, np.pi / 180, 30, minLineLength=40, maxLineGap=3) is not None)
    assert 0.25 < np.mean(found) < 0.95


def test_textures_have_all_scales() -> None:
    centroids = []
    for number in range(len(tile_kinds())):
        left, top = (int(value) for value in tile_origin(np.asarray(number)))
        tile = atlas()[top : top + TILE, left : left + TILE].astype(float)
        assert 20 < tile.std() < 60
        assert 110 < tile.mean() < 146
        power = np.abs(np.fft.fft2(tile - tile.mean())) ** 2
        radius = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE))
        centroids.append((power * radius).sum() / power.sum())
    assert max(centroids) > 15 * min(centroids)


def flakes(image: np.ndarray) -> int:
    """Return the number of small, bright, round, colourless spots, which snow would be."""
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    bright = cv2.morphologyEx(image.min(axis=2), cv2.MORPH_TOPHAT, window) > 70
    _, _, boxes, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
    width, height, area = boxes[1:, 2:5].T
    longest, shortest = np.maximum(width, height), np.minimum(width, height)
    return int(((longest <= 8) & (longest < 2 * shortest + 1) & (area >= 3)).sum())


def test_snow_is_not_part_of_a_scene() -> None:
    without = np.median([flakes(scene.image) for scene in scenes()])
    snowed = np.median([flakes(degrade(scene.image, "snow", key).image) for key, scene in enumerate(scenes()[:60])])
    assert without <= np.median([flakes(piece) for piece in crops()])
    assert snowed > 5 * without
