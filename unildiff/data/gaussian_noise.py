"""Gaussian noise on clean images, for training and for test sets that have no noisy files.

Images are (H, W, C) uint8 RGB; sigma is the standard deviation in units of 1/255.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from unildiff.data.augment import centre_cut
from unildiff.data.pair import Pair
from unildiff.utils.errors import UserError
from unildiff.utils.keys import generator
from unildiff.utils.validation import Range

Recipe = Literal["keyed", "peers"]
_BASE = 16  # the peers cut test images to a multiple of this before the noise is added


def sigma_of(degradation: str) -> int:
    """Return 25 for "noise_25" or "urban100_noise_25"."""
    return int(degradation.rsplit("_", 1)[1])


Sigma = Annotated[int, Range(0, 255)]


def check_levels(name: str, sigmas: Sequence[int]) -> None:
    """Raise UserError unless noise levels, given as ``name``, are one or more, none negative, none twice."""
    if not sigmas or min(sigmas) < 0 or len(set(sigmas)) < len(sigmas):
        raise UserError(f"{name}: {list(sigmas)}; give at least one, none negative, none twice, e.g. [15, 25, 50]")


class GaussianNoise:
    """A :class:`unildiff.data.datasets.Degrader`.

    ``keyed`` (ours): the noise of an image follows from (seed, name, sigma) alone, and is rounded to 8 bits.
    ``peers``: numpy's global generator with seed 0 draws through all test images in the order given, one sigma after
    the other; images are first cut about the centre to a multiple of 16, and 8 bits are cut off, not rounded
    (PromptIR, AdaIR, DFPIR, MoCE-IR). There, an image's noise depends on all that come before it.
    """

    def __init__(self, sigmas: Sequence[int], recipe: Recipe = "keyed") -> None:
        """Args: sigmas to draw from in training, each equally often; the recipe.

        Raises:
            UserError: see :func:`check_levels`.
        """
        check_levels("sigmas", sigmas)
        self._sigmas = tuple(sigmas)
        self._recipe = recipe
        self._states: dict[tuple[str, str], Any] = {}  # numpy's own form of a generator's state

    def train(self, gt: np.ndarray, key: int) -> tuple[np.ndarray, str]:
        """Return a noisy copy of a crop and the degradation's name, e.g. "noise_25"."""
        sigma = int(generator(key, "sigma").choice(self._sigmas))
        return self._add(gt, _normal(gt.shape, key) * np.float32(sigma)), f"noise_{sigma}"

    def test(self, gt: np.ndarray, pair: Pair, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a noisy copy of an image, and the ground truth to compare it with."""
        sigma = sigma_of(pair.degradation)
        if self._recipe == "keyed":
            return self._add(gt, _normal(gt.shape, key) * np.float32(sigma)), gt
        gt = centre_cut(gt, _BASE)
        state = np.random.RandomState(0)
        state.set_state(self._states[pair.degradation, pair.name])
        return self._add(gt, state.randn(*gt.shape) * sigma), gt

    def draw_through(self, pairs: Sequence[Pair], shape: Callable[[int], tuple[int, ...]]) -> None:
        """Record the peers' generator before each test image; pairs in the peers' order, ``shape(i)`` is a full (H, W, C)."""
        state = np.random.RandomState(0)
        for index, pair in enumerate(pairs):
            self._states[pair.degradation, pair.name] = state.get_state(legacy=True)
            height, width, channels = shape(index)
            state.randn(height // _BASE * _BASE, width // _BASE * _BASE, channels)

    def _add(self, gt: np.ndarray, noise: np.ndarray) -> np.ndarray:
        noisy = gt + noise
        return np.asarray((noisy if self._recipe == "peers" else np.rint(noisy)).clip(0, 255), dtype=np.uint8)


def _normal(shape: tuple[int, ...], key: int) -> np.ndarray:
    return generator(key, "noise").standard_normal(shape, dtype=np.float32)
