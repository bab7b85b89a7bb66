"""Noise, blur and motion blur by name: against scipy and their definitions."""

import numpy as np
import pytest
from scipy import ndimage

from unildiff.degradations import tasks
from unildiff.degradations.blur import gaussian_blur, motion_blur
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.errors import UserError

IMAGE = np.random.default_rng(0).integers(40, 216, (48, 56, 3)).astype(np.uint8)


def test_gaussian_blur_is_scipys() -> None:
    expected = ndimage.gaussian_filter(IMAGE.astype(float), (2, 2, 0), mode="mirror", truncate=3)
    assert np.abs(gaussian_blur(IMAGE, 2.0) - expected).max() < 1.1  # rounded; the kernel in fixed point


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_motion_blur_of_a_point_is_its_path(gamma: float) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    light = (motion_blur(point, 12, np.random.default_rng(3), bend=0, gamma=gamma) / 255.0) ** gamma
    trail = light[..., 0] / light[..., 0].sum()
    rows, columns = np.mgrid[:41, :41]
    centre = np.array([(trail * rows).sum(), (trail * columns).sum()])
    np.testing.assert_allclose(centre, 20, atol=0.3)
    spread = np.array([[(trail * (a - 20) * (b - 20)).sum() for a in (rows, columns)] for b in (rows, columns)])
    along, across = np.sqrt(np.linalg.eigvalsh(spread)[::-1])
    assert (
        abs(along - 12 / np.sqrt(12)) < 0.5 and across < 0.7
    )  # an even line of 12 pixels has a deviation of 12 / sqrt(12)


def test_named_noise_has_its_sigma_and_drawn_noise_lies_in_the_range() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    named = tasks.apply(grey, "noise_25", 1).astype(float) - 128
    assert abs(named.std() - 25) < 0.5 and abs(named.mean()) < 0.5
    drawn = [np.std(tasks.apply(grey, "noise", key).astype(float)) for key in range(60)]
    assert 14.5 < min(drawn) < 22 and 42 < max(drawn) < 50.5


def test_every_task_is_a_pure_function_of_the_key() -> None:
    for name in {*tasks.TASKS, *tasks.EVALUATED}:
        first, second, other = (tasks.apply(IMAGE, name, key) for key in (7, 7, 8))
        assert first.dtype == np.uint8 and first.shape == IMAGE.shape
        assert np.array_equal(first, second)
        assert np.array_equal(first, other) == (name in ("clear", "blur_2"))
    for name in DEGRADATIONS:
        np.testing.assert_array_equal(tasks.apply(IMAGE, name, 3), degrade(IMAGE, name, 3).image)


@pytest.mark.parametrize("names", [["fog"], ["noise_"], ["noise_x"], ["motion_blur_3"], []])
def test_unknown_names_are_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"degradations.*low, haze"):
        tasks.check_tasks("degradations", names)
    tasks.check_tasks("degradations", ["noise_12.5", "blur_1", "rain"])
