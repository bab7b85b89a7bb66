"""Scenes are pure functions of their key, and their captions are true."""

import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from tests.deadleaves.made_scenes import Calm, one_disc
from unildiff.deadleaves.captions import describe
from unildiff.deadleaves.colours import COLOUR_NAMES, colour_name
from unildiff.deadleaves.layout import Layout, sample_layout
from unildiff.deadleaves.paint import draw_labels
from unildiff.deadleaves.renderer import VOCABULARY, render
from unildiff.utils.keys import generator


def test_the_same_in_another_process_and_after_other_scenes() -> None:
    program = "import zlib; from unildiff.deadleaves.renderer import render; s = render(7); print(zlib.crc32(s.image), s.caption)"
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    scene = render(7)
    assert fresh.strip() == f"{zlib.crc32(np.ascontiguousarray(scene.image))} {scene.caption}"


def test_no_global_generator_is_read() -> None:
    np.random.seed(1)
    cv2.setRNGSeed(1)
    first = [render(key).image for key in range(8)]
    np.random.seed(2)
    cv2.setRNGSeed(2)
    assert all(np.array_equal(a, render(key).image) for key, a in enumerate(first))
    assert len({image.tobytes() for image in first}) == 8


@pytest.mark.parametrize("size", [16, 100, 128, 400])
def test_any_size(size: int) -> None:
    scene = render(3, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.depth.shape == (size, size)
    assert scene.depth.dtype == np.float32
    assert 0 <= scene.depth.min() < scene.depth.max() <= 1


def test_the_size_does_not_change_the_scene() -> None:
    similar = []
    for key in range(6):
        small, large = render(key, 96), render(key, 192)
        similar.append(np.abs(cv2.resize(large.depth, (96, 96), interpolation=cv2.INTER_AREA) - small.depth).mean())
    assert np.median(similar) < 0.03  # depths reach from 0 to 1


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16, got 15"):
        render(0, 15)


def test_captions_use_every_word_of_the_vocabulary_and_no_other() -> None:
    used = set()
    for key in range(400):
        rng = generator(key, "caption")
        layout = sample_layout(rng)
        used |= set(describe(layout, draw_labels(rng, layout, 48)).split())
    assert used == set(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_captions_never_name_a_degradation() -> None:
    degraded = {
        "rain",
        "rainy",
        "snow",
        "snowy",
        "haze",
        "hazy",
        "fog",
        "foggy",
        "low",
        "dark",
        "noise",
        "noisy",
        "blurred",
    }
    assert not degraded & set(VOCABULARY)


def test_captions_are_true() -> None:
    layout = one_disc()
    labels = draw_labels(Calm(), layout, 64)
    assert describe(layout, labels) == "a photograph of a large smooth red disc in front of a smooth grey wall"
    outdoors = Layout(0.5, 0.0, one_disc(colour=((0.4, 0.6, 0.9), (0.2, 0.5, 0.1), (0.95, 0.95, 0.95))).shapes)
    labels = draw_labels(Calm(), outdoors, 64)
    expected = "a photograph of a large smooth white disc before a smooth blue sky above a smooth green ground"
    assert describe(outdoors, labels) == expected


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0.9, 0.1, 0.1), "red"),
        ((1.0, 0.6, 0.1), "orange"),
        ((0.4, 0.25, 0.12), "brown"),
        ((0.95, 0.9, 0.1), "yellow"),
        ((0.2, 0.6, 0.2), "green"),
        ((0.2, 0.3, 0.9), "blue"),
        ((0.5, 0.2, 0.8), "purple"),
        ((0.9, 0.3, 0.7), "pink"),
        ((0.05, 0.05, 0.1), "black"),
        ((0.5, 0.5, 0.52), "grey"),
        ((0.95, 0.93, 0.9), "white"),
    ],
)
def test_colours_have_their_names(colour: tuple[float, float, float], name: str) -> None:
    assert colour_name(np.array(colour)) == name
    assert name in COLOUR_NAMES
