"""How sure a mean is, and whether one run is better than another: percentile bootstrap and exact sign test.

Letters: N images, R draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def bootstrap_interval(
    columns: Sequence[ArrayLike], *, together: bool = False, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of the columns' means.

    A table's average is a mean over degradations of means over images, so the same is done to each draw.
    Values that are not finite (a metric that was not computed, an identical pair that the protocol excludes) are left out.
    With few images the percentile interval is too narrow (our choice all the same: it assumes nothing; see any
    text on the bootstrap); the tables print the count beside it.

    Args:
        columns: One array of N per-image values for each degradation; one array alone gives the interval of its mean.
        together: row i of every column is the same scene, so that scenes are drawn once for all columns; the columns must
            then be equally long.
        level: coverage in (0, 1).
        draws: number of resamples R.
        seed: the generator's seed; the same seed gives the same interval.

    Returns:
        (low, high); both NaN where some column has fewer than two finite values.

    Raises:
        ValueError: no column, ``level`` outside (0, 1), or unequal lengths with ``together``.
    """
    if not columns or not 0 < level < 1:
        raise ValueError(f"bootstrap_interval needs a column and a level in (0, 1), got {len(columns)} and {level}")
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if together:
        if len({array.shape for array in arrays}) > 1:
            raise ValueError("columns drawn together must be equally long")
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
    """A run against another, image by image.

    Attributes:
        count: number of units compared (images, or scenes where images of one scene were averaged).
        difference: mean of second minus first, in the metric's unit.
        low: lower end of the 95% bootstrap interval of ``difference``.
        high: upper end.
        better: units in which the second is higher.
        worse: units in which it is lower.
        p_value: two-sided exact sign test.
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
        """Return in words what may be said; ``units`` is what was counted, e.g. images."""
        if sign_test(self.count, 0) >= 0.05:  # even if all had gone one way
            return f"too few {units} to tell"
        return "a difference" if self.conclusive else "no difference shown"


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    scenes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same images.

    Args:
        first: (N,) values of the first run.
        second: (N,) values of the second run, in the same order.
        scenes: (N,) names of scenes; images of one scene (CDD-11 degrades each in 11 ways) are not independent, so
            their differences are averaged before anything is counted. ``None``: every image stands for itself.
        columns: (N,) names of degradations, for a difference that is a mean of their means, as a table's average is,
            whatever their sizes; not together with ``scenes``. ``None``: all images weigh the same.
        seed: of the bootstrap.

    Returns:
        The comparison; differences that are not finite are left out. A degradation with a single image leaves the
        interval empty.

    Raises:
        ValueError: lengths differ, scenes and columns are given both, or no finite difference is left.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = {each.size for each in (a, b)} | {len(names) for names in (scenes, columns) if names is not None}
    if a.ndim != 1 or len(lengths) > 1 or (scenes is not None and columns is not None):
        raise ValueError(f"paired values must be equally long vectors, got {a.shape} and {b.shape}")
    kept = np.isfinite(a) & np.isfinite(b)
    differences = b[kept] - a[kept]
    if differences.size == 0:
        raise ValueError("no finite pair to compare")
    if scenes is not None:
        _, groups = np.unique(np.asarray(scenes)[kept], return_inverse=True)
        differences = np.bincount(groups, weights=differences) / np.bincount(groups)
    groups_of = np.zeros(differences.size) if columns is None else np.asarray(columns)[kept]
    parts = [differences[groups_of == name] for name in np.unique(groups_of)]
    low, high = bootstrap_interval(parts, seed=seed)
    mean = float(np.mean([part.mean() for part in parts]))
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(differences.size, mean, low, high, better, worse, sign_test(better, worse))
