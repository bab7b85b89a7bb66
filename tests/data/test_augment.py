"""Crops, reflection and turns."""

import numpy as np
import pytest

from unildiff.data.augment import Augment

SAMPLE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_without_switches_it_only_crops():
    (crop,) = Augment(8, hflip=False)([SAMPLE], 5)
    windows = np.lib.stride_tricks.sliding_window_view(SAMPLE, (8, 8), axis=(0, 1))  # (13, 23, C, 8, 8)
    assert (windows == crop.transpose(2, 0, 1)).all(axis=(2, 3, 4)).sum() == 1
    assert crop.flags.c_contiguous and not np.shares_memory(crop, SAMPLE)


def test_every_place_and_turn_comes_up_and_arrays_stay_together():
    rows, columns = np.mgrid[:20, :30]
    places = np.stack([rows, columns], axis=2).astype(np.int32)
    seen = set()
    for key in range(3000):
        crop, where = Augment(18, hflip=True, vflip=True, rotate=True)([SAMPLE, places], key)
        assert (crop == SAMPLE[where[..., 0], where[..., 1]]).all()
        seen.add((*where[0, 0], *where[-1, -1], *where[0, -1]))
    assert len(seen) == 3 * 13 * 8  # places, and the eight symmetries of a square


def test_small_images_are_reflected_as_often_as_it_takes():
    small = SAMPLE[:5, :3]
    (crop,) = Augment(16, hflip=False)([small], 1)
    assert (crop == np.pad(small, ((0, 11), (0, 13), (0, 0)), mode="reflect")).all()
    (crop,) = Augment(4, hflip=False)([SAMPLE[:1, :1]], 1)
    assert (crop == SAMPLE[0, 0]).all()


def test_a_pair_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match="differ in size"):
        Augment(8)([SAMPLE, SAMPLE[:-1]], 0)


def test_place_is_where_the_crop_lies_in_the_turned_original() -> None:
    """Flip and turn the whole image by numpy, then cut at the place that is reported."""
    size = (18, 18)
    for key in range(40):
        augment = Augment(18, hflip=True, vflip=True, rotate=True)
        (crop,) = augment([SAMPLE], key)
        original, (top, left) = augment.place(*SAMPLE.shape[:2], key)
        matches = [
            turned[top : top + size[0], left : left + size[1]]
            for flipped in (SAMPLE, SAMPLE[:, ::-1], SAMPLE[::-1], SAMPLE[::-1, ::-1])
            for turned in (np.rot90(flipped, turns) for turns in range(4))
            if turned.shape[:2] == original
        ]
        assert any(np.array_equal(match, crop) for match in matches)
    small = np.ascontiguousarray(SAMPLE[:5, :7])
    assert Augment(16).place(*small.shape[:2], 1) == ((5, 7), (0, 0))
