"""The certainty of means and of differences between runs: percentile bootstrap and exact sign test.

Letters: N images, R draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    columns: Sequence[ArrayLike], *, together: bool = False, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of the columns' means.

    A table's average is a mean over degradations of means over images, and so is each draw. With few images the interval
    is too narrow, but it assumes nothing (our choice); the tables print the count beside it.

    Args:
        columns: One array of N per-image values for each degradation; values that are not finite are left out.
        together: Row i of every column is the same scene, so that scenes are drawn once for all columns; the columns must
            then be equally long.
        level: Coverage in (0, 1).
        draws: Number of resamples R.
        seed: Seed of the generator.

    Returns:
        (low, high); both NaN if some column has fewer than two finite values.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if together:
        arrays = [np.stack(arrays).mean(axis=0)]  # the mean over degradations is linear: average each scene first
    arrays = [array[np.isfinite(array)] for array in arrays]
    if min(array.size for array in arrays) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means_R = np.zeros(draws)
    for array in arrays:
        indices_RN = rng.integers(0, array.size, size=(draws, array.size))
        means_R += array[indices_RN].mean(axis=1) / len(arrays)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_test(better: int, worse: int) -> float:
    """Return the exact two-sided p-value of ``better`` against ``worse`` signs (ties left out), in (0, 1]."""
    total = better + worse
    tail = sum(math.comb(total, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**total))


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images.

    Attributes:
        count: Number of units compared (images, or scenes if images of one scene were averaged).
        difference: Mean of second minus first, in the metric's unit.
        low: Lower end of the 95% bootstrap interval of ``difference``.
        high: Its upper end.
        better: Number of units in which the second is higher.
        worse: Number of units in which it is lower.
        p_value: Two-sided exact sign test.
    """

    count: int
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float

    @property
    def conclusive(self) -> bool:
        """Whether the interval leaves out zero and the sign test is below 0.05."""
        return (self.low > 0 or self.high < 0) and self.p_value < 0.05

    def verdict(self, units: str) -> str:
        """Return the conclusion in words; ``units`` names the units, e.g. images."""
        if sign_test(self.count, 0) >= 0.05:  # not even a unanimous result could be conclusive
            return f"too few {units} to tell"
        return "a difference" if self.conclusive else "no difference shown"


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    scenes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Comparison | None:
    """Compare two runs on the same images; None without a finite pair.

    Args:
        first: (N,) values of the first run.
        second: (N,) values of the second run, in the same order.
        scenes: (N,) names of scenes. Images of one scene (CDD-11 degrades each in 11 ways) are not independent, so their
            differences are averaged before anything is counted. None: every image is a unit of its own.
        columns: (N,) names of degradations, for a difference that is a mean of their means, like a table's average; not
            together with ``scenes``. None: all images weigh the same.
        seed: Seed of the bootstrap.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    kept = np.isfinite(a) & np.isfinite(b)
    differences = b[kept] - a[kept]
    if differences.size == 0:
        return None
    if scenes is not None:
        _, groups = np.unique(np.asarray(scenes)[kept], return_inverse=True)
        differences = np.bincount(groups, weights=differences) / np.bincount(groups)
    groups_of = np.zeros(differences.size) if columns is None else np.asarray(columns)[kept]
    parts = [differences[groups_of == name] for name in np.unique(groups_of)]
    low, high = bootstrap_interval(parts, seed=seed)
    mean = float(np.mean([part.mean() for part in parts]))
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(differences.size, mean, low, high, better, worse, sign_test(better, worse))
