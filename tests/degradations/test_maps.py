"""Estimated maps on images with known light and depth."""

import numpy as np

from unildiff.degradations.maps import estimate_depth, estimate_illumination


def test_illumination_follows_the_light_and_ignores_grain() -> None:
    rng = np.random.default_rng(0)
    light = np.linspace(0.2, 1, 96, dtype=np.float32)[None, :].repeat(64, axis=0)
    texture = rng.uniform(0.8, 1, (64, 96, 3)).astype(np.float32)
    estimate = estimate_illumination(light[..., None] * texture)
    assert np.corrcoef(estimate.ravel(), light.ravel())[0, 1] > 0.99
    grain = (light[..., None] * texture).max(axis=2) - estimate
    assert (estimate - light).std() < 0.6 * grain.std() + 0.02
    assert estimate.dtype == np.float32


def test_illumination_keeps_strong_edges_and_a_floor() -> None:
    image = np.zeros((64, 64, 3), np.float32)
    image[:, 32:] = 0.9
    estimate = estimate_illumination(image)
    assert estimate[:, :28].max() < 0.1
    assert estimate[:, 36:].min() > 0.8
    assert estimate.min() >= 0.05


def test_sky_is_far_and_ground_is_near() -> None:
    rng = np.random.default_rng(0)
    image = np.empty((90, 120, 3), np.float32)
    image[:45] = (0.7, 0.8, 0.95)
    image[45:] = rng.uniform(0.05, 0.5, (45, 120, 3))
    depth = estimate_depth(image)
    assert depth[:40].max() < depth[50:].min()
    assert (depth.min(), depth.max()) >= (0, 0)
    assert depth.max() <= 1
    assert np.abs(np.diff(depth[50:], axis=0)).max() < 0.1  # smooth for an even texture


def test_black_and_white_images_give_finite_maps() -> None:
    for value in (0, 1):
        image = np.full((5, 9, 3), value, np.float32)
        assert np.isfinite(estimate_depth(image)).all()
        assert np.isfinite(estimate_illumination(image)).all()
