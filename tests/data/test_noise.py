"""Noise in training; its tests' side stands with the traps."""

import numpy as np
import pytest

from datamodules.denoise import DenoiseDataModule
from unildiff.data.gaussian_noise import GaussianNoise
from unildiff.utils.errors import UserError

GREY = np.full((64, 64, 3), 128, np.uint8)


def test_levels_are_drawn_equally_often_and_are_what_they_say():
    noise = GaussianNoise([15, 25, 50])
    names = []
    for key in range(600):
        noisy, name = noise.train(GREY, key)
        names.append(name)
        if key < 12:
            residual = noisy.astype(float) - 128
            sigma = int(name.split("_")[1])
            # 12,288 draws: the standard deviation is within 3 % (4.7 standard errors); 50 loses 1 % to clipping
            assert abs(residual.std() / sigma - 1) < 0.03 and abs(residual.mean()) < 0.05 * sigma
    assert all(160 < names.count(f"noise_{sigma}") < 240 for sigma in (15, 25, 50))


def test_rounding_has_no_bias_and_the_peers_cut_has_half_a_level():
    means = {
        recipe: np.mean([GaussianNoise([15], recipe).train(GREY, key)[0] for key in range(40)])
        for recipe in ("keyed", "peers")
    }
    # 491,520 draws of sigma 15: standard error 0.02
    assert abs(means["keyed"] - 128) < 0.1 and abs(means["peers"] - 127.5) < 0.1


def test_bad_levels_are_refused():
    message = "{}: .*; give at least one, none negative, none twice"
    for sigmas, said in (
        ([], message),
        ([25, -1], r"{}\[1\] is -1; it must be a whole number between 0 and"),
        ([25, 25], message),
    ):
        with pytest.raises(UserError, match="sigmas"):
            GaussianNoise(sigmas)
        for name in ("sigmas", "test_sigmas"):
            with pytest.raises(UserError, match="^" + said.format(name)):
                DenoiseDataModule(**{name: sigmas})
