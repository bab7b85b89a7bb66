"""Depth follows the order of occlusion; light, shadows and lens follow depth."""

import cv2
import numpy as np

from tests.deadleaves.made_scenes import Calm, one_disc
from unildiff.deadleaves import camera
from unildiff.deadleaves import layout as layouts
from unildiff.deadleaves.layout import FIRST, LOWER, Layout, sample_layout
from unildiff.deadleaves.paint import draw_labels, paint, paint_depth
from unildiff.utils.keys import generator


def some_layouts(count: int = 25) -> list[Layout]:
    return [sample_layout(generator(key, "layout")) for key in range(count)]


def test_the_visible_shape_is_the_nearest() -> None:
    """Each shape is drawn alone; at every pixel the visible label must have the greatest depth of all shapes."""
    for layout in some_layouts(12):
        side = 64
        corners = (layouts.outline(layout.shapes, side) * 16).astype(np.int32)
        nearest = paint_depth(layout, np.full((side, side), 0 if layout.horizon == 1 else LOWER, np.uint8))
        if layout.horizon < 1:
            nearest[:] = 0  # the depth of the ground is compared in the next test
        for label in range(FIRST, len(layout.shapes)):
            alone = np.zeros((side, side), np.uint8)
            cv2.fillPoly(alone, [corners[label]], 1, cv2.LINE_8, 4)
            np.maximum(nearest, np.float32(layout.shapes["depth"][label]), out=nearest, where=alone > 0)
        labels = draw_labels(Calm(), layout, side)
        seen = paint_depth(layout, labels)
        shapes_only = labels >= FIRST
        np.testing.assert_allclose(seen[shapes_only], nearest[shapes_only], atol=1e-6)
        assert (np.diff(layout.shapes["depth"]) >= 0).all()


def test_shapes_stand_before_the_ground_they_cover() -> None:
    outdoors = [layout for layout in some_layouts(40) if layout.horizon < 1]
    assert len(outdoors) > 8
    for layout in outdoors:
        labels = draw_labels(Calm(), layout, 96)
        ground = paint_depth(layout, np.full_like(labels, LOWER))
        covering = labels >= FIRST
        assert (paint_depth(layout, labels)[covering] > ground[covering]).mean() > 0.999
        assert (np.diff(ground[:, 0]) >= 0).all()  # nearer towards the bottom
        sky = labels[0] == 0
        assert (paint_depth(layout, labels)[0][sky] == 0).all()


def test_shapes_are_shaded_across() -> None:
    spreads, falls = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        layout = one_disc()
        labels = draw_labels(Calm(), layout, 96)
        red = paint(rng, layout, labels)[..., 0]
        rows, columns = np.nonzero(labels == 2)
        values = red[rows, columns]
        spreads.append(values.std() / values.mean())
        plane = np.stack((rows, columns, np.ones_like(rows)), axis=1)
        falls.append(np.linalg.lstsq(plane, values, rcond=None)[0][:2])
    assert np.median(spreads) > 0.05
    directions = np.degrees(np.arctan2(*np.transpose(falls)))
    assert np.std(directions) > 45  # light comes from anywhere


def test_shadows_fall_beside_near_shapes() -> None:
    depth = np.zeros((128, 128), np.float32)
    depth[40:80, 40:80] = 1
    darker = []
    for seed in range(12):
        lit = camera.light_up(np.random.default_rng(seed), np.ones((128, 128, 3), np.float32), depth)
        even = camera.light_up(np.random.default_rng(seed), np.ones((128, 128, 3), np.float32), np.zeros_like(depth))
        ratio = (lit / even)[..., 0]
        assert ratio.max() <= 1.00001
        assert ratio[50:70, 50:70].min() > 0.999  # none on the near square itself
        assert ratio[:25].min() > 0.999  # none far away from it
        darker.append(ratio.min())
        inside = ratio[(ratio < 0.98)]
        if ratio.min() < 0.8:
            assert len(np.unique(inside.round(2))) > 5  # soft: many levels
    assert min(darker) < 0.6
    assert max(darker) > 0.8


def test_blur_grows_away_from_the_focal_plane() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((128, 128, 3), dtype=np.float32)
    depth = np.linspace(0, 1, 128, dtype=np.float32)[None].repeat(128, axis=0)
    sharp, graded = 0, 0
    for seed in range(60):
        result = camera.focus(np.random.default_rng(seed), image.copy(), depth)
        kept = result.std(axis=(0, 2)) / image.std(axis=(0, 2))  # by column, thus by depth
        if np.allclose(kept, 1):
            sharp += 1
            continue
        plane = int(kept.argmax())
        graded += kept[plane] > 0.9 and kept.min() < 0.9 * kept[plane]
        assert np.corrcoef(np.abs(np.arange(128) - plane), kept)[0, 1] < -0.6
    assert 20 < sharp < 50
    assert graded > 0.8 * (60 - sharp)
